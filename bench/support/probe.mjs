// The C programs that do the timing (bench/probe), built when they are first needed.
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Conversation, have, run } from './process.mjs';

const sources = fileURLToPath(new URL('../probe', import.meta.url));
const binaries = fileURLToPath(new URL('../../build/bench', import.meta.url));

/** The first of these compilers that is installed. */
function compiler(what, ...names) {
  const found = names.find(have);
  if (!found) throw new Error(`no compiler for ${what}: ${names.join(', ')}`);
  return found;
}

/** Builds `name` with the command that `build` gives for a file name, unless it is newer than all sources. */
function whenNewer(name, directories, build) {
  const binary = path.join(binaries, name);
  const files = directories.flatMap((directory) => readdirSync(directory).map((file) => path.join(directory, file)));
  if (existsSync(binary) && files.every((file) => statSync(file).mtimeMs < statSync(binary).mtimeMs)) return binary;
  mkdirSync(binaries, { recursive: true });
  const fresh = `${binary}.${process.pid}`;
  const [command, ...args] = build(fresh);
  run(command, args);
  renameSync(fresh, binary);
  return binary;
}

function buildProbe(name) {
  const libraries = ['lookups', 'packets', 'sink'].includes(name) ? ['-lbpf', '-lpthread'] : [];
  return whenNewer(name, [sources], (out) => [
    ...[compiler('the probes', 'gcc', 'cc', 'clang'), '-std=gnu11', '-O2', '-Wall', '-Wextra'],
    ...['-o', out, path.join(sources, `${name}.c`), ...libraries],
  ]);
}

/** A BPF object of the bench, over the headers of the data path. Returns the file. */
export function buildObject(name) {
  const headers = fileURLToPath(new URL('../../bpf/include', import.meta.url));
  const multiarch = run(compiler('the probes', 'gcc', 'cc', 'clang'), ['-print-multiarch']).trim();
  const arch = process.arch === 'arm64' ? 'arm64' : 'x86';
  return whenNewer(`${name}.bpf.o`, [sources, headers], (out) => [
    ...[compiler('BPF programs', ...['', ...Array.from({ length: 9 }, (_, i) => `-${22 - i}`)].map((version) => `clang${version}`))],
    ...['-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-std=gnu11', '-Wall', `-D__TARGET_ARCH_${arch}`, `-I${headers}`],
    ...['-isystem', `/usr/include/${multiarch}`, '-c', path.join(sources, `${name}.bpf.c`), '-o', out],
  ]);
}

/** Starts a probe, on the first CPU unless `pin` says otherwise, through `prefix` (such as `unshare -n`). */
export function startProbe(name, { prefix = [], pin = true, args: more = [] } = {}) {
  const [command, ...args] = [...prefix, buildProbe(name), ...more];
  const probe = new Conversation(command, args);
  if (pin) probe.tell('cpu 0');
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
