import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, rmSync } from 'node:fs';

/** A directory of the test's own in the bpffs. */
export const pinDirectory = (): string => `/sys/fs/bpf/ebpf-lb-test-${process.pid}-${randomBytes(4).toString('hex')}`;
export const removePins = (path: string): void => rmSync(path, { recursive: true, force: true });

type Listed = { id: number; prog_id?: number };

function bpftool(...args: string[]): Listed[] {
  const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };
  const text = execFileSync('bpftool', ['-j', ...args], { env, maxBuffer: 1 << 26 }).toString();
  const json = JSON.parse(text || '[]') as Listed | Listed[];
  return Array.isArray(json) ? json : [json];
}

/** Kernel ids of the maps, links and programs that are pinned in a directory. */
export class KernelObjects {
  readonly #seen = { map: new Set<number>(), link: new Set<number>(), prog: new Set<number>() };

  note(directory: string): void {
    for (const name of readdirSync(directory)) {
      const kind = name.startsWith('link_') ? 'link' : 'map';
      for (const found of bpftool(kind, 'show', 'pinned', `${directory}/${name}`)) {
        this.#seen[kind].add(found.id);
        if (found.prog_id) this.#seen.prog.add(found.prog_id);
      }
    }
  }

  /** Those of the noted ones that the kernel still has. */
  left(): string[] {
    const left: string[] = [];
    for (const kind of ['map', 'link', 'prog'] as const)
      for (const { id } of bpftool(kind, 'list')) if (this.#seen[kind].has(id)) left.push(`${kind} ${id}`);
    return left;
  }

  get count(): number {
    return this.#seen.map.size + this.#seen.link.size + this.#seen.prog.size;
  }
}
