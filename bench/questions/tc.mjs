// What does a packet cost at tc? DSR that wraps cannot be asked about: a test run cannot undo what the kernel notes of a wrapped packet.
import { measurePackets } from '../support/packets.mjs';

export const title = 'tc: nanoseconds for each packet above an empty program';

export async function run({ log }) {
  const figures = await measurePackets(
    'tc',
    [
      ['snat', async () => {}, 'nothing'],
      ['l2', (lb) => lb.enableDSR({ dispatch: 'l2' }), 'nothing'],
    ],
    log,
  );
  return { figures, notes: ['least: of all rounds; the others are medians'] };
}
