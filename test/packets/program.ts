import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const out = fileURLToPath(new URL('../../build/test/packets', import.meta.url));
export const objects = fileURLToPath(new URL('../../build/bpf', import.meta.url));

/** A C program of this directory, built if it is out of date. */
export function program(name: 'tap' | 'run'): string {
  mkdirSync(out, { recursive: true });
  execFileSync('make', ['-s', '-C', here, `OUT=${out}`, `${out}/${name}`], { stdio: ['ignore', 'inherit', 'inherit'] });
  return `${out}/${name}`;
}
