// The stack of the deepest call chain of each BPF program, as kernels before 6.5 count it: each frame rounded up to 32 bytes, 512 in all
// (kernel/bpf/verifier.c, check_max_stack_depth). Later ones round to 16, so what loads here may not load there.
//   stack-depth.mjs OBJECT...   prints the deepest chain of each program
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const insnBytes = 8;
const frameRounding = 32;
export const mostStack = 512;

const symbolTable = 2;
const relocations = 9;
const functionSymbol = 2;

/** Sections of a 64-bit little-endian ELF file. */
function sectionsOf(elf) {
  const at = Number(elf.readBigUInt64LE(40));
  const size = elf.readUInt16LE(58);
  const sections = Array.from({ length: elf.readUInt16LE(60) }, (_, i) => {
    const header = elf.subarray(at + i * size, at + (i + 1) * size);
    const start = Number(header.readBigUInt64LE(24));
    return {
      type: header.readUInt32LE(4),
      bytes: elf.subarray(start, start + Number(header.readBigUInt64LE(32))),
      link: header.readUInt32LE(40),
      info: header.readUInt32LE(44),
    };
  });
  return sections;
}

const text = (strings, at) => strings.toString('latin1', at, strings.indexOf(0, at));

function symbolsOf(sections) {
  const table = sections.find(({ type }) => type === symbolTable);
  const strings = sections[table.link].bytes;
  return Array.from({ length: table.bytes.length / 24 }, (_, i) => {
    const entry = table.bytes.subarray(i * 24, (i + 1) * 24);
    return {
      name: text(strings, entry.readUInt32LE(0)),
      kind: entry[4] & 15,
      section: entry.readUInt16LE(6),
      at: Number(entry.readBigUInt64LE(8)) / insnBytes,
      length: Number(entry.readBigUInt64LE(16)) / insnBytes,
    };
  });
}

/** Bytes below the frame pointer that the instructions touch. */
function frameOf(insns) {
  const copies = new Map(); // register -> instruction that copied the frame pointer into it
  let deepest = 0;
  for (let i = 0; i < insns.length; i++) {
    const { code, to, from, offset, value } = insns[i];
    const memory = [1, 2, 3].includes(code & 7);
    const base = (code & 7) === 1 ? from : to;
    if (memory && base === 10 && offset < 0) deepest = Math.max(deepest, -offset);
    if (code === 0xbf && from === 10) copies.set(to, i);
    else if (code === 0x07 && copies.has(to) && i - copies.get(to) < 8 && value < 0) deepest = Math.max(deepest, -value);
  }
  return deepest;
}

function decode(bytes) {
  return Array.from({ length: bytes.length / insnBytes }, (_, i) => ({
    code: bytes[i * insnBytes],
    to: bytes[i * insnBytes + 1] & 15,
    from: bytes[i * insnBytes + 1] >> 4,
    offset: bytes.readInt16LE(i * insnBytes + 2),
    value: bytes.readInt32LE(i * insnBytes + 4),
  }));
}

/** Functions with their frames and whom they call. */
function functionsOf(file) {
  const sections = sectionsOf(readFileSync(file));
  const symbols = symbolsOf(sections);
  const functions = symbols.filter(({ kind }) => kind === functionSymbol);
  const find = (section, at) => functions.find((f) => f.section === section && f.at === at);
  const moved = new Map(); // section:instruction -> symbol that a relocation names
  for (const { type, info, bytes } of sections) {
    if (type !== relocations) continue;
    for (let at = 0; at < bytes.length; at += 16)
      moved.set(`${info}:${Number(bytes.readBigUInt64LE(at)) / insnBytes}`, symbols[bytes.readUInt32LE(at + 12)]);
  }
  return functions.map((f) => {
    const all = decode(sections[f.section].bytes);
    const calls = new Set();
    for (let i = f.at; i < f.at + f.length; i++) {
      if (all[i].code !== 0x85 || all[i].from !== 1) continue;
      const symbol = moved.get(`${f.section}:${i}`);
      if (symbol && symbol.section === 0) continue; // a function of the kernel's
      const called = !symbol
        ? find(f.section, i + 1 + all[i].value)
        : symbol.kind === functionSymbol
          ? find(symbol.section, symbol.at)
          : find(symbol.section, symbol.at + all[i].value + 1);
      if (!called) throw new Error(`${file}: ${f.name} calls what is no function, at instruction ${i}`);
      calls.add(called.name);
    }
    return { name: f.name, frame: frameOf(all.slice(f.at, f.at + f.length)), calls };
  });
}

const rounded = (bytes) => Math.max(frameRounding, Math.ceil(bytes / frameRounding) * frameRounding);

/** The deepest chain from each function that nobody calls: bytes, and the names with their frames. */
export function deepestChains(file) {
  const functions = new Map(functionsOf(file).map((f) => [f.name, f]));
  const called = new Set([...functions.values()].flatMap(({ calls }) => [...calls]));
  const deepest = (name) => {
    const { frame, calls } = functions.get(name);
    const below = [...calls].map(deepest).sort((a, b) => b.bytes - a.bytes)[0];
    return { bytes: rounded(frame) + (below?.bytes ?? 0), chain: [`${name} ${frame}`, ...(below?.chain ?? [])] };
  };
  return [...functions.keys()].filter((name) => !called.has(name)).map((name) => ({ program: name, ...deepest(name) }));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const file of process.argv.slice(2))
    for (const { program, bytes, chain } of deepestChains(file))
      console.log(`${path.basename(file)} ${program}: ${bytes} of ${mostStack}, ${chain.join(' > ')}`);
}
