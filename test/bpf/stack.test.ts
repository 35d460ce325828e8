import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { deepestChains, mostStack } from '../../scripts/stack-depth.mjs';

const objects = fileURLToPath(new URL('../../build/bpf', import.meta.url));
const files = readdirSync(objects).filter((name) => name.endsWith('.bpf.o'));

test.each(files)('[2.7] the stacks of %s fit kernels before 6.5', (name) => {
  const chains = deepestChains(`${objects}/${name}`);
  expect(chains.length).toBeGreaterThan(0);
  expect(chains.filter(({ bytes }) => bytes > mostStack)).toEqual([]);
});

test('[2.7] the chain that is known to be deep is found through calls of every kind', () => {
  const [xdp] = deepestChains(`${objects}/xdp_lb_current.bpf.o`).filter(({ program }) => program === 'lb_xdp');
  expect(xdp!.chain.length).toBeGreaterThan(3);
  expect(xdp!.bytes).toBeGreaterThan(mostStack / 2);
});
