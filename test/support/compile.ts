import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** A small C program of test/support, built when it is older than its source or a header there. */
export function compile(name: string): string {
  const directory = fileURLToPath(new URL('.', import.meta.url));
  const program = fileURLToPath(new URL(`../../build/test/${name}`, import.meta.url));
  const sources = readdirSync(directory).filter((file) => file === `${name}.c` || file.endsWith('.h'));
  const newest = Math.max(...sources.map((file) => statSync(path.join(directory, file)).mtimeMs));
  if (existsSync(program) && statSync(program).mtimeMs > newest) return program;
  mkdirSync(path.dirname(program), { recursive: true });
  execFileSync('gcc', ['-std=gnu11', '-Wall', '-O2', '-pthread', '-o', program, path.join(directory, `${name}.c`)]);
  return program;
}
