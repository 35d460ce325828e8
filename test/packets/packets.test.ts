/** Packet fixtures through the programs, in every build of them: as tc sees them, and as XDP sees them first. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build } from './build.js';
import { concerns } from './fixtures/index.js';
import { type Entry, Runner, variants } from './runner.js';

const entries: Entry[] = ['tc', 'xdp'];

describe('packet fixtures', () => {
  const all = Object.values(concerns).flat();

  it('[2.2] are at least 150, of which no two are named alike', () => {
    expect(all.length).toBeGreaterThanOrEqual(150);
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
  });

  it('say things that can be built', () => {
    const known = { get: () => 40_000 } as unknown as Map<string, number>;
    for (const { steps } of all)
      for (const { send, out } of steps) expect(build(send, known).length + build(out ?? [], known).length).toBeGreaterThan(14);
  });
});

describe.each(variants)('[2.2] the %s programs', (variant) => {
  let runner: Runner;
  beforeAll(async () => {
    runner = await Runner.start(variant);
  });
  afterAll(async () => await runner?.close());

  describe.each(entries)('at %s', (entry) => {
    describe.each(Object.entries(concerns))('%s', (_, fixtures) => {
      it.each(fixtures)('$name', async (fixture) => {
        await runner.run(fixture, entry);
      });
    });
  });
});
