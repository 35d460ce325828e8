import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** A small C program of test/support, built when it is older than its source. */
export function compile(name: string): string {
  const source = fileURLToPath(new URL(`./${name}.c`, import.meta.url));
  const program = fileURLToPath(new URL(`../../build/test/${name}`, import.meta.url));
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  mkdirSync(path.dirname(program), { recursive: true });
  execFileSync('gcc', ['-std=gnu11', '-Wall', '-O2', '-pthread', '-o', program, source]);
  return program;
}
