// For the tests; the rest of scripts/ is only run.
export function complaints(
  counts: Record<string, number>,
  recorded: { kernel: string; counts: Record<string, number> },
  kernel: string,
): string[];
