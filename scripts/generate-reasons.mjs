// From bpf/reasons.json, the one list of reasons, writes what the datapath, the API and the reader need:
//   bpf/include/reasons.h  lib/reasons.ts  docs/reasons.md
//   generate-reasons.mjs           writes them
//   generate-reasons.mjs --check   exit status 1 when one is not what would be written
// A number is stored in counters and events, so it is never given to another reason. One that goes away leaves { "number": n, "retired": "name" }.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const verdicts = ['forward', 'pass', 'reject', 'drop'];

/** What is wrong with a list of reasons; empty when nothing is. */
export function problemsOf(list) {
  const problems = [];
  const names = new Set();
  for (const [i, { number, name, verdict, sentence, remedy, retired }] of list.entries()) {
    const complain = (what) => problems.push(`[${i}] ${name ?? retired}: ${what}`);
    if (number !== i + 1) complain(`numbers count up from 1 without a gap, got ${number} instead of ${i + 1}`);
    if (!/^[a-z]+(-[a-z0-9]+)*$/.test(name ?? retired ?? '')) complain('name must be kebab-case');
    if (names.has(name ?? retired)) complain('name is there twice');
    names.add(name ?? retired);
    if (retired !== undefined) continue;
    if (!verdicts.includes(verdict)) complain(`verdict must be one of ${verdicts.join(', ')}, got ${verdict}`);
    for (const [field, text] of Object.entries({ sentence, remedy })) {
      if (!/^[A-Z].*\.$/.test(text ?? '')) complain(`${field} must begin with a capital letter and end with a full stop`);
    }
  }
  return problems;
}

const banner = 'Generated from bpf/reasons.json by scripts/generate-reasons.mjs (npm run generate).';
const quote = (text) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
const constant = (name) => `LB_REASON_${name.toUpperCase().replaceAll('-', '_')}`;

function header(reasons, count) {
  const members = reasons.flatMap(({ number, name, verdict, sentence }) => [
    `\t/* ${verdict}: ${sentence} */`,
    `\t${constant(name)} = ${number},`,
  ]);
  return `/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ${banner} */
#ifndef LB_REASONS_H
#define LB_REASONS_H

enum lb_reason {
	LB_REASON_NONE = 0,
${members.join('\n')}
	LB_REASON_COUNT = ${count}, /* of an array indexed by reason */
};

#endif
`;
}

function typescript(reasons) {
  const rows = reasons.map(
    ({ number, name, verdict, sentence, remedy }) => `  ${name.includes('-') ? quote(name) : name}: {
    number: ${number},
    verdict: '${verdict}',
    sentence: ${quote(sentence)},
    remedy: ${quote(remedy)},
  },`,
  );
  return `// ${banner}

/** Why the datapath decided as it did. */
export type Reason =
${reasons.map(({ name }) => `  | ${quote(name)}`).join('\n')};

export interface ReasonInfo {
  number: number;
  verdict: 'forward' | 'pass' | 'reject' | 'drop';
  sentence: string;
  remedy: string;
}

/** What each reason means and what to do about it. */
export const reasons: Readonly<Record<Reason, ReasonInfo>> = {
${rows.join('\n')}
};

/** The reason that a number in the maps and events stands for. */
export const reasonByNumber: ReadonlyMap<number, Reason> = new Map([
${reasons.map(({ number, name }) => `  [${number}, ${quote(name)}],`).join('\n')}
]);
`;
}

function markdown(reasons) {
  const rows = reasons.map(
    ({ number, name, verdict, sentence, remedy }) => `| ${number} | \`${name}\` | ${verdict} | ${sentence} | ${remedy} |`,
  );
  return `<!-- ${banner} -->
# Reasons

Every decision of the datapath has one of these reasons: \`explain()\`, counters, events and \`reasons\` use the same names.

| number | reason | verdict | what happened | what to do |
| --- | --- | --- | --- | --- |
${rows.join('\n')}
`;
}

/** Path and text of each generated file. */
export function generate(list) {
  const reasons = list.filter(({ retired }) => retired === undefined);
  return {
    'bpf/include/reasons.h': header(reasons, list.length + 1),
    'lib/reasons.ts': typescript(reasons),
    'docs/reasons.md': markdown(reasons),
  };
}

function main() {
  const root = path.resolve(fileURLToPath(import.meta.url), '../..');
  const list = JSON.parse(readFileSync(path.join(root, 'bpf/reasons.json'), 'utf8'));
  const problems = problemsOf(list);
  if (problems.length > 0) {
    console.error(problems.map((problem) => `bpf/reasons.json: ${problem}`).join('\n'));
    return 1;
  }
  const check = process.argv.includes('--check');
  let status = 0;
  for (const [file, text] of Object.entries(generate(list))) {
    const target = path.join(root, file);
    let current = '';
    try {
      current = readFileSync(target, 'utf8');
    } catch {
      // Not there yet.
    }
    if (current === text) continue;
    if (check) {
      console.error(`${file} is out of date: run npm run generate`);
      status = 1;
    } else {
      mkdirSync(path.dirname(target), { recursive: true });
      writeFileSync(target, text);
      console.log(`wrote ${file}`);
    }
  }
  return status;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.exitCode = main();
