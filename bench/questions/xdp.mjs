// What does a packet cost in the driver?
import { measurePackets } from '../support/packets.mjs';

export const title = 'XDP: nanoseconds for each packet above an empty program';

export async function run({ log }) {
  const figures = await measurePackets(
    'xdp',
    [
      ['snat', async () => {}, 'nothing'],
      ['dsr', (lb) => lb.enableDSR(), 'grows'],
      ['l2', (lb) => lb.enableDSR({ dispatch: 'l2' }), 'nothing'],
    ],
    log,
  );
  return { figures, notes: ['least: of all rounds; the others are medians'] };
}
