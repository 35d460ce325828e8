/** How many refused packets are answered: as many as net.ipv4.icmp_msgs_per_sec would allow, whatever comes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build } from './build.js';
import { clientPort, fromClient } from './fixtures/common.js';
import { data, tcp, udp } from './layers.js';
import { Runner, variants } from './runner.js';
import { families, ports } from './world.js';

const packets = 2000;
/** Of a second, and at once. */
const limits = { icmp: { rate: 1000, burst: 50 }, resets: { rate: 10_000, burst: 500 } };

describe.each(variants)('the %s programs', (variant) => {
  let runner: Runner;
  beforeAll(async () => {
    runner = await Runner.start(variant);
  });
  afterAll(async () => await runner?.close());

  /** What becomes of packets that come all at once. */
  async function flood(frame: Uint8Array): Promise<{ answered: number; limited: number; seconds: number }> {
    const before = await runner.counted('tc', 'answer-limited');
    const started = performance.now();
    const line = `packet ingress ext ${Buffer.from(frame).toString('hex')}`;
    for (let i = 0; i < packets; i++) runner.write(line);
    let answered = 0;
    for (let i = 0; i < packets; i++) if ((await runner.read()).startsWith('7 ')) answered++;
    const seconds = (performance.now() - started) / 1000;
    return { answered, limited: (await runner.counted('tc', 'answer-limited')) - before, seconds };
  }

  describe.each(families)('$name', (f) => {
    it.each([
      ['ICMP errors', limits.icmp, [udp(clientPort, ports.rejecting), data('question')]],
      ['TCP resets', limits.resets, [tcp(clientPort, ports.rejecting, { flags: 'S' })]],
    ] as const)('sends no more %s than its limit allows, and counts what it drops', async (_, { rate, burst }, transport) => {
      const { answered, limited, seconds } = await flood(build(fromClient(f, [...transport]), new Map()));
      expect(answered).toBeGreaterThan(0);
      // A millisecond may have begun before the first packet, and the last ends after it.
      expect(answered).toBeLessThanOrEqual(burst + Math.ceil(rate * (seconds + 0.002)));
      expect(answered + limited).toBe(packets);
      if (seconds < (packets - burst) / rate / 2) expect(limited).toBeGreaterThan(0);
    });
  });
});
