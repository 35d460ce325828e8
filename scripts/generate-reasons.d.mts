// For the tests; the rest of scripts/ is only run.
export function problemsOf(list: unknown[]): string[];
export function generate(list: unknown[]): Record<'bpf/include/reasons.h' | 'lib/reasons.ts' | 'docs/reasons.md', string>;
