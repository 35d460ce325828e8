import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';

/** A directory of the test's own in the bpffs. */
export const pinDirectory = (): string => `/sys/fs/bpf/ebpf-lb-test-${process.pid}-${randomBytes(4).toString('hex')}`;
export const removePins = (path: string): void => rmSync(path, { recursive: true, force: true });

/** Ids of programs, maps and links of this library that the kernel holds. Names begin with lb_. */
export function kernelObjects(): { programs: number; maps: number; links: number } {
  const list = (what: string) => {
    const text = execFileSync('bpftool', ['-j', what, 'list'], { env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` }, maxBuffer: 1 << 26 });
    return JSON.parse(text.toString() || '[]') as { id: number; name?: string; prog_id?: number }[];
  };
  const programs = list('prog').filter((program) => program.name?.startsWith('lb_'));
  const ids = new Set(programs.map((program) => program.id));
  return {
    programs: programs.length,
    maps: list('map').filter((map) => map.name?.startsWith('lb_')).length,
    links: list('link').filter((link) => ids.has(link.prog_id ?? -1)).length,
  };
}
