/** Random histories of a service, its flows and its balancer against a model of what is promised: model.cc. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { full } from '../support/fixture.js';

const program = fileURLToPath(new URL('../../build/anchor_model', import.meta.url));
const histories = full ? 200 : 6;
const steps = 4000;

interface Totals {
  packets: number;
  flows: number;
  checked: number;
  commits: number;
  restarts: number;
  kills: number;
  dropped: number;
  entries: number;
}

test('[2.6] no flow that is not idle for too long changes its backend, and none begins at one that takes no new flows', { timeout: 3_600_000 }, async () => {
  const seed = full ? Math.floor(Math.random() * 2 ** 32) : 1;
  const { stdout } = await promisify(execFile)(program, [String(histories), String(steps), String(seed)]).catch(
    (error: { stdout?: string; stderr?: string }) => {
      throw new Error(`histories from seed ${seed}: ${error.stdout}${error.stderr}`);
    },
  );
  const totals = JSON.parse(stdout) as Totals;
  expect(totals.checked).toBeGreaterThan(histories * 1000);
  expect(totals.commits).toBeGreaterThan(histories * 100);
  for (const what of ['flows', 'restarts', 'kills', 'dropped', 'entries'] as const) expect(totals[what], what).toBeGreaterThan(0);
});
