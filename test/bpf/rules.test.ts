import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { slow } from '../support/fixture.js';

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** The programs alone, without the library, in every build and with every setting that this kernel takes (rules.c). */
test('[1.2] the rules of the data path hold, for each build of the programs and with full sets of peers', { timeout: 300_000 * slow }, () => {
  const out = path('../../build/test/bpf');
  mkdirSync(out, { recursive: true });
  execFileSync('make', ['-s', '-C', path('.'), `OUT=${out}`, 'all'], { stdio: ['ignore', 'inherit', 'inherit'] });
  const { stdout, stderr, status } = spawnSync(`${out}/rules`, [path('../../build/bpf')], { encoding: 'utf8' });
  expect(`${stdout}${stderr}`).toMatch(/all rules hold\n$/);
  expect(status).toBe(0);
  expect(stdout.split('\n')).toEqual(expect.arrayContaining(['legacy', 'legacy-full-sets']));
});
