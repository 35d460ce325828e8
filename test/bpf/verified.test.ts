import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { complaints } from '../../scripts/verifier-counts.mjs';

test('[2.8] no program takes the verifier much more than is recorded', () => {
  const script = fileURLToPath(new URL('../../scripts/verifier-counts.mjs', import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [script], { encoding: 'utf8' });
  expect(`${stdout}${stderr}`).toBe('');
  expect(status).toBe(0);
});

test('[2.8] growth is told on the kernel of the record, and on others what comes near the limit', () => {
  const recorded = { kernel: '6.18', counts: { a: 1000, b: 100_000 } };
  expect(complaints({ a: 1100, b: 115_000 }, recorded, '6.18')).toEqual([]);
  expect(complaints({ a: 1300, b: 116_000, c: 1 }, recorded, '6.18').map((line: string) => line[0])).toEqual(['a', 'b', 'c']);
  expect(complaints({ a: 1300, b: 499_000, c: 1 }, recorded, '6.1')).toEqual([]);
  expect(complaints({ a: 1300, b: 501_000 }, recorded, '6.1').map((line: string) => line[0])).toEqual(['b']);
});
