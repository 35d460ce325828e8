// The C programs that do the timing (bench/probe), built when they are first needed.
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Conversation, have, run } from './process.mjs';

const sources = fileURLToPath(new URL('../probe', import.meta.url));
const binaries = fileURLToPath(new URL('../../build/bench', import.meta.url));

function build(name) {
  const binary = path.join(binaries, name);
  const newest = Math.max(...readdirSync(sources).map((file) => statSync(path.join(sources, file)).mtimeMs));
  if (existsSync(binary) && statSync(binary).mtimeMs > newest) return binary;
  mkdirSync(binaries, { recursive: true });
  const compiler = ['gcc', 'cc', 'clang'].find(have);
  if (!compiler) throw new Error('no C compiler (gcc, cc or clang) for the probes');
  const fresh = `${binary}.${process.pid}`;
  run(compiler, ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-o', fresh, path.join(sources, `${name}.c`)]);
  renameSync(fresh, binary);
  return binary;
}

/** Starts a probe on the first CPU, through `prefix` (such as `unshare -n`). */
export function startProbe(name, prefix = []) {
  const [command, ...args] = [...prefix, build(name)];
  const probe = new Conversation(command, args);
  probe.tell('cpu 0');
  return probe;
}

export const target = (name, address, port, { socket = 0, span = 1 } = {}) => `target ${name} ${socket} ${address} ${port} ${span}`;

/** Adds to `times` the medians of an answer, in ns, each under its target's name. */
export function keepMedians(times, answer) {
  for (const [name, { p50 }] of Object.entries(answer)) {
    times[name] ??= [];
    times[name].push(p50 / 10);
  }
}
