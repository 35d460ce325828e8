/** Packet fixtures through the programs, in every build of them: as tc sees them, and as XDP sees them first. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build } from './build.js';
import type { Fixture } from './fixture.js';
import { ends } from './fixtures/ends.js';
import { forward } from './fixtures/forward.js';
import { fragments } from './fixtures/fragments.js';
import { icmpEcho, icmpErrors } from './fixtures/icmp.js';
import { local } from './fixtures/local.js';
import { malformed } from './fixtures/malformed.js';
import { refuse } from './fixtures/refuse.js';
import { reply } from './fixtures/reply.js';
import { untouched } from './fixtures/untouched.js';
import { type Entry, Runner, type Variant } from './runner.js';

const concerns: Record<string, Fixture[]> = {
  untouched,
  malformed,
  forward,
  reply,
  local,
  refuse,
  'echo requests': icmpEcho,
  'ICMP errors': icmpErrors,
  fragments,
  ends,
};
const entries: Entry[] = ['tc', 'xdp'];
const variants: Variant[] = ['current', 'legacy'];

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
