/** Bytes that kernels before 6.5 allow. */
export const mostStack: number;

/** The deepest call chain from each function that nobody calls: its stack in bytes, and the names with their frames. */
export function deepestChains(file: string): { program: string; bytes: number; chain: string[] }[];
