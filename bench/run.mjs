// Measures: npm run bench [-- [QUESTION]... [--json FILE] [--check] [--pictures DIRECTORY] [--from FILE]]
//   --json FILE           writes { machine, kernel, date, results: { [question]: { [figure]: number } } }
//   --check               exit status 1 when a goal (goals.mjs) about these questions is missed, and which
//   --pictures DIRECTORY  draws what the results have pictures of (docs/bench)
//   --from FILE           measures nothing: takes the results that --json wrote
// README.md beside this file says how the figures are made.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { missed } from './goals.mjs';
import { answer } from './support/isolated.mjs';
import { show, table } from './support/table.mjs';

const order = ['connect', 'tcp-connect', 'requests', 'set-backends', 'apply', 'memory', 'xdp', 'tc', 'packets', 'lookups'];
const questions = readdirSync(fileURLToPath(new URL('questions', import.meta.url)))
  .map((file) => file.replace(/\.mjs$/, ''))
  .sort((a, b) => order.indexOf(a) - order.indexOf(b));

function usage(message) {
  console.error(`${message}\nusage: npm run bench [-- [QUESTION]... [--json FILE] [--check] [--pictures DIRECTORY] [--from FILE]]`);
  console.error(`questions: ${questions.join(', ')}`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { json: { type: 'string' }, check: { type: 'boolean' }, pictures: { type: 'string' }, from: { type: 'string' } },
    });
  } catch (error) {
    return usage(error.message);
  }
}

const describeMachine = () =>
  `${os.cpus()[0].model.trim()}, ${os.cpus().length} CPUs, ${Math.round(os.totalmem() / 2 ** 30)} GiB, ${os.arch()}`;

async function measure(wanted, signal) {
  const results = {};
  for (const name of wanted) {
    const { title } = await import(`./questions/${name}.mjs`);
    console.log(`${name}: ${title}`);
    const busy = os.loadavg()[0];
    let outcome;
    try {
      outcome = await answer(name, { log: (text) => console.error(`  ... ${text}`), signal });
    } catch (error) {
      if (signal.aborted) process.exit(130);
      console.error(`${name} failed: ${error.message}\n`);
      process.exitCode = 1;
      continue;
    }
    const { figures, notes } = outcome;
    results[name] = figures;
    if (busy > 0.5) notes.push(`the machine was not idle: load ${busy.toFixed(1)} at the start`);
    console.log([...table(name, figures), ...notes.map((note) => `  # ${note}`), ''].join('\n'));
  }
  return { machine: describeMachine(), kernel: os.release(), date: new Date().toISOString(), results };
}

function check(results) {
  const missing = missed(results);
  for (const { question, figure, text, value, most, least } of missing) {
    const goal = most === undefined ? `at least ${show(figure, least)}` : `at most ${show(figure, most)}`;
    console.log(`missed: ${text} (${question} ${figure}): ${value === undefined ? 'not measured' : show(figure, value)}, goal ${goal}`);
  }
  if (missing.length === 0) console.log('every goal is reached');
  return missing.length === 0;
}

const { values: options, positionals } = parse();
const unknown = positionals.filter((name) => !questions.includes(name));
if (unknown.length > 0) usage(`unknown question: ${unknown.join(', ')}`);
if (!options.from && process.getuid?.() !== 0) usage('measuring needs root');

// Ctrl-C and the like end the question; this process stays until everything is taken away.
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop.abort());

const report = options.from
  ? JSON.parse(readFileSync(options.from, 'utf8'))
  : await measure(positionals.length > 0 ? positionals : questions, stop.signal);
if (options.json) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
if (options.pictures) {
  const { draw } = await import('./support/pictures.mjs');
  for (const file of await draw(report, options.pictures)) console.log(`drawn: ${file}`);
}
if (options.check && !check(report.results)) process.exitCode = 1;
