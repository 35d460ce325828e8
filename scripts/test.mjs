// Runs the tests, then prints `N passed, N failed, N skipped` as the last line, whatever happens.
//   test.mjs [VITEST ARGUMENT]...
//   test.mjs --accept MARK...    only tests whose name carries one of the marks ([1.3]), at full count
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

process.chdir(path.resolve(fileURLToPath(import.meta.url), '../..'));
const require = createRequire(import.meta.url);
const args = process.argv.slice(2);
const env = { ...process.env };
let carriesMark;

if (args[0] === '--accept') {
  const marks = args.splice(0).slice(1);
  if (marks.length === 0 || marks.some((mark) => !/^\d+\.\d+$/.test(mark))) {
    console.error('usage: npm run accept -- MARK..., where MARK is issue and done-when, such as 1.3');
    process.exit(2);
  }
  const pattern = `\\[(${marks.join('|').replaceAll('.', '\\.')})\\]`;
  args.push('-t', pattern);
  carriesMark = new RegExp(pattern);
  env.EBPF_LB_FULL = '1';
}

/** Counts from vitest's JSON report; undefined when it did not live to write one. */
function count(report) {
  let results;
  try {
    results = JSON.parse(readFileSync(report, 'utf8'));
  } catch {
    return undefined;
  }
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const file of results.testResults) {
    // A file that cannot be loaded has no tests to fail.
    if (file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed')) counts.failed++;
    for (const test of file.assertionResults) {
      if (carriesMark && !carriesMark.test(test.fullName)) continue;
      counts[test.status === 'passed' || test.status === 'failed' ? test.status : 'skipped']++;
    }
  }
  return counts;
}

const scratch = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-test-'));
const report = path.join(scratch, 'report.json');
const vitest = path.join(path.dirname(require.resolve('vitest/package.json')), 'vitest.mjs');
const reporting = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
const child = spawn(process.execPath, [vitest, 'run', ...reporting, ...args], { stdio: 'inherit', env });
// Ctrl-C reaches vitest as well; stay until it has cleaned up. A signal sent to this process alone is handed on.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));

child.on('exit', (code) => {
  const counts = count(report) ?? { passed: 0, failed: 1, skipped: 0 };
  rmSync(scratch, { recursive: true, force: true });
  if (code !== 0 && counts.failed === 0) counts.failed = 1; // an error outside of any test
  const nothing = counts.passed + counts.failed === 0;
  if (nothing) console.error(carriesMark ? 'no test that carries the mark ran' : 'no test ran');
  console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  process.exitCode = counts.failed > 0 || nothing ? 1 : 0;
});
