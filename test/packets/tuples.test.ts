import { expect, it } from 'vitest';
import { full } from '../support/fixture.js';
import { variants } from './runner.js';
import { tuples } from './tuples.js';

const count = full ? 1_000_000 : 20_000;

it.each(full ? variants.slice(0, 1) : variants)(
  `[2.4] ${count} random tuples through 50 services that share backends do not meet, and each answer goes to who asked: %s programs`,
  async (variant) => {
    const found = await tuples({ count, seed: Number(process.env['EBPF_LB_SEED'] ?? 1), variant });
    expect(found ?? '').toBe('');
  },
);
