import type { LoadBalancer } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { balance, frontend } from '../support/balancing.js';
import { full } from '../support/fixture.js';
import { places, servicesOf } from '../support/packet-cases.js';
import { addressIn, familyNames, PacketLab, serverPort } from '../support/packet-lab.js';
import type { TrafficClient, TrafficSocket } from '../support/traffic.js';

const seconds = full ? 10 : 1;
const perSecond = 10_000;
const established = 200;
const capacity = 2048;

let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

describe.each(['tc', 'XDP native'] as const)('%s', (hook) => {
  let lb: LoadBalancer;
  // SYNs alone are kept for 10 seconds: each test has a table of its own.
  beforeEach(async () => {
    lb = await balance(lab, 'lb1', hook, { capacity: { connections: capacity } });
    await lb.apply(servicesOf(lab, 'snat'));
  });
  afterEach(() => lb?.close());

  describe.each(familyNames)('$name', ({ family }) => {
    const service = () => frontend(lab, 'external', family, places.sameDevice.number, serverPort);
    const open = async () => {
      const sockets: TrafficSocket[] = [];
      for (let i = 0; i < established; i++) sockets.push(await client.open('tcp', service()));
      for (const socket of sockets) expect(await socket.who()).toMatchObject({ server: places.sameDevice.workload });
      return sockets;
    };
    const expectAlive = async (sockets: TrafficSocket[]) => {
      for (const socket of sockets) expect(await socket.who()).toMatchObject({ server: places.sameDevice.workload });
    };

    test('[2.5] a table filled to 110 % keeps every established flow', async () => {
      const sockets = await open();
      await lab.flood(service(), perSecond, Math.ceil(capacity * 1.1));
      await expectAlive(sockets);
      await Promise.all(sockets.map((socket) => socket.close()));
    });

    test(`[2.5] ${seconds} seconds of SYNs: established flows go on as beside a flood that is for nobody, and it is counted`, async () => {
      const sockets = await open();
      const nobody = { address: addressIn('external', family, 99), port: 80 };
      const refused = () => lb.stats().byReason['connections-full']?.toNumber() ?? 0;
      expect(refused()).toBe(0);
      const counts = { service: 0, nobody: 0 };
      for (let round = 0; round < 2; round++) {
        counts.nobody += await answersBeside(nobody, sockets);
        counts.service += await answersBeside(service(), sockets);
      }
      await expectAlive(sockets);
      expect(refused()).toBeGreaterThan(capacity);
      // A second is too short a time to compare.
      if (full) expect(counts.service / counts.nobody).toBeGreaterThan(0.9);
      else expect(counts.service).toBeGreaterThan(0);
      await Promise.all(sockets.map((socket) => socket.close()));
    });
  });
});

/** How many questions are answered on established connections while a flood lasts. */
async function answersBeside(to: { address: string; port: number }, sockets: TrafficSocket[]): Promise<number> {
  let flooding = true;
  let answers = 0;
  const flood = lab.flood(to, perSecond, perSecond * seconds).finally(() => {
    flooding = false;
  });
  const ask = async (socket: TrafficSocket) => {
    while (flooding) {
      const { error } = await socket.who();
      expect(error).toBeUndefined();
      answers++;
    }
  };
  await Promise.all(sockets.slice(0, 8).map(ask));
  await flood;
  return answers;
}
