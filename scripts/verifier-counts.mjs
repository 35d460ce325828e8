// How many instructions the verifier walks for each program, against what bpf/verifier-counts.json has: verifier-counts.mjs [--update]
// Counts belong to a kernel release (major.minor). On that of the file, a program that takes 15 % more than recorded fails; on
// other kernels the verifier walks other paths, so there a program fails only beyond half of what the kernel allows. --update writes the file anew.
// Needs root and the built objects (npm run build:bpf).
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const file = `${root}bpf/verifier-counts.json`;
const share = 0.15;
/** A handful of instructions is no growth. */
const leeway = 50;
/** The kernel's limit is a million. */
const most = 500_000;

const release = os.release().split('.').slice(0, 2).join('.');

function measure() {
  const out = `${root}build/test/bpf`;
  mkdirSync(out, { recursive: true });
  execFileSync('make', ['-s', '-C', `${root}test/bpf`, `OUT=${out}`, `${out}/verified`], { stdio: ['ignore', 'inherit', 'inherit'] });
  return JSON.parse(execFileSync(`${out}/verified`, [`${root}build/bpf`], { encoding: 'utf8' }));
}

/** What is wrong, a line each. */
export function complaints(counts, recorded, kernel) {
  const lines = [];
  const same = recorded.kernel === kernel;
  for (const [name, count] of Object.entries(counts)) {
    const before = recorded.counts[name];
    if (count > most) lines.push(`${name}: ${count} instructions, more than ${most}, half of what a kernel allows`);
    if (!same) continue;
    if (before === undefined) lines.push(`${name}: ${count} instructions, not recorded`);
    else if (count > before * (1 + share) + leeway)
      lines.push(`${name}: ${count} instructions, ${before} recorded: more than ${share * 100} % on top`);
  }
  return lines;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const counts = measure();
  if (process.argv.includes('--update')) {
    const sorted = Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
    writeFileSync(file, `${JSON.stringify({ kernel: release, counts: sorted }, null, 2)}\n`);
  } else {
    const found = complaints(counts, JSON.parse(readFileSync(file, 'utf8')), release);
    for (const line of found) console.error(line);
    if (found.length > 0) {
      console.error('if the growth is wanted: npm run verifier:update');
      process.exitCode = 1;
    }
  }
}
