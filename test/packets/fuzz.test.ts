import { expect, it } from 'vitest';
import { full } from '../support/fixture.js';
import { fuzz } from './fuzz.js';
import { variants } from './runner.js';

/** `npm run fuzz -- --packets N` takes as many as one likes. */
const packets = full ? 10_000_000 : 200_000;

it.each(full ? variants.slice(0, 1) : variants)(
  '[2.3] no packet of a fuzzer is changed wrongly, misdelivered or turned into a loop: %s programs',
  async (variant) => {
    const found = await fuzz({ packets, seed: Number(process.env['EBPF_LB_SEED'] ?? 1), variant });
    expect(found ?? '').toBe('');
  },
);
