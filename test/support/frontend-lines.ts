// The table of frontends as it is in the kernel: read and written behind the balancer's back.

type Run = (...args: string[]) => Promise<string>;

const lineBytes = 64;

/** Lines that hold anything. */
export async function frontendLines(run: Run, pinPath: string): Promise<{ line: number; bytes: number[] }[]> {
  const stdout = await run(`bpftool -j map dump pinned ${pinPath}/frontends`);
  const elements = JSON.parse(stdout) as { key: string[]; value: string[] }[];
  return elements.map(({ value }, line) => ({ line, bytes: value.map(Number) })).filter(({ bytes }) => bytes.some((byte) => byte !== 0));
}

/** No bytes: an empty line. */
export async function writeFrontendLine(run: Run, pinPath: string, line: number, bytes: number[]): Promise<void> {
  const value = Array.from({ length: lineBytes }, (_, i) => bytes[i] ?? 0);
  const key = [0, 8, 16, 24].map((shift) => (line >> shift) & 255);
  await run(`bpftool map update pinned ${pinPath}/frontends key ${key.join(' ')} value ${value.join(' ')}`);
}
