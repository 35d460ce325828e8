import type { LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { balance, frontend, hookNames } from '../support/balancing.js';
import { slow, until } from '../support/fixture.js';
import { servicesOf } from '../support/packet-cases.js';
import { type Family, familyNames, PacketLab, serverPort } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

// Programs remember the ways to backends and clients: routes, neighbours and links change while traffic runs.
let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve(['node1-a', 'node3-a']);
  client = lab.client();
  // A new MAC address is announced; addresses stay on a link that is down.
  const settings = ['ipv4/conf/all/arp_notify=1', 'ipv6/conf/all/ndisc_notify=1', 'ipv6/conf/all/keep_addr_on_down=1'];
  for (const name of ['lb1', 'node1']) {
    const each = settings.flatMap((setting) => [setting, setting.replace('/all/', `/${lab.lab.device(name, 'switch')}/`)]);
    for (const setting of each) {
      const [path, value] = setting.split('=');
      await lab.lab.run(name, ['sh', '-ec', `echo ${value} > /proc/sys/net/${path}`]);
    }
  }
});
afterAll(() => lab?.close());

const ip = (namespace: string, ...lines: string[]) => lab.lab.run(namespace, ['ip', '-batch', '-'], { input: `${lines.join('\n')}\n` });

/** What programs go on by when nobody has told them of a change, with room for retries of what the kernel does itself (ARP, neighbour discovery). */
const longestSilence = 1500 * slow;

/** Asks a service all the time while `change` happens, until it has answered for a while again. Milliseconds of the longest silence. */
async function silenceDuring(family: Family, change: () => Promise<unknown>): Promise<number> {
  const to = frontend(lab, 'external', family, 2, serverPort);
  const socket = await client.open('udp', to, { patienceMs: 40 });
  const tcp = await client.open('tcp', to, { patienceMs: 5000 });
  let longest = 0;
  let last = performance.now();
  let asked = 0;
  const ask = async () => {
    const { server, error } = await socket.who();
    if (error === undefined) {
      expect(server).toBe('node1-a');
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
      asked++;
    }
  };
  for (let i = 0; i < 10; i++) await ask();
  expect(asked, 'answers before the change').toBe(10);
  let changing = true;
  const changed = change().finally(() => {
    changing = false;
  });
  const deadline = performance.now() + 10_000 * slow;
  for (let after = 0; after < 30; ) {
    expect(performance.now(), 'is answered again').toBeLessThan(deadline);
    const before = asked;
    await ask();
    if (!changing && asked > before) after++;
  }
  await changed;
  expect(await tcp.who(), 'a connection from before').toMatchObject({ server: 'node1-a' });
  await Promise.all([socket.close(), tcp.close()]);
  return longest;
}

describe.each(hookNames)('%s', (hook) => {
  describe.each(['snat', 'dsr'] as const)('%s', (forwarding) => {
    const balancers: LoadBalancer[] = [];
    beforeAll(async () => {
      const lb1 = await balance(lab, 'lb1', hook);
      const node1 = await balance(lab, 'node1', hook);
      balancers.push(lb1, node1);
      const peers = lab.node('lb1').addresses.map((address) => `${address}/${address.includes(':') ? 128 : 32}`);
      await node1.enableDSR({ dispatch: 'ipip', peers });
      await lb1.enableDSR({ dispatch: 'ipip' });
      for (const lb of balancers) await lb.apply(servicesOf(lab, forwarding));
    });
    afterAll(async () => {
      for (const lb of balancers) await lb.close();
    });

    describe.each(familyNames)('$name', ({ family }) => {
      const pods = () => lab.lab.address('node1-a', family);
      const onSwitch = (name: string) =>
        lab
          .node(name as 'lb1')
          .addresses.filter((a) => a.includes(':') === (family === 6))
          .at(-1) as string;
      const router = () => lab.nodeAddress('lb1', family).replace(/2$/, '1');

      test('[2.8] follows a neighbour to another MAC address', async () => {
        const device = lab.lab.device('node1', 'switch');
        const addresses = ['02:00:00:00:aa:01', '02:00:00:00:aa:02'];
        for (const address of addresses)
          expect(await silenceDuring(family, () => ip('node1', `link set ${device} address ${address}`))).toBeLessThan(longestSilence);
      });

      test('[2.8] follows a route to another device, and to the route that is left when a link goes down', async () => {
        const device = lab.lab.device('lb1', 'switch');
        const host = `${pods()}/${family === 4 ? 32 : 128}`;
        // Answers to translated sources must not depend on the link that goes down.
        const back = `${lab.nodeAddress('lb1', family)}/${family === 4 ? 32 : 128}`;
        const routerOnSwitch = family === 4 ? '10.10.0.5' : 'fd00:10:10::5';
        try {
          await ip('node1', `route replace ${back} via ${routerOnSwitch}`);
          expect(await silenceDuring(family, () => ip('lb1', `route replace ${host} via ${router()}`))).toBeLessThan(longestSilence);
          const home = `route replace ${host} via ${onSwitch('node1')}`;
          expect(await silenceDuring(family, () => ip('lb1', home))).toBeLessThan(longestSilence);
          await ip('lb1', `route add ${host} via ${router()} metric 5000`);
          expect(await silenceDuring(family, () => ip('lb1', `link set ${device} down`))).toBeLessThan(longestSilence);
        } finally {
          await ip('lb1', `link set ${device} up`);
          await until('the link is up', async () => (await lab.lab.run('lb1', ['ip', '-json', 'link', 'show', device])).includes('"UP"'));
          await restoreRoutes();
          await lab.lab.run('lb1', ['sh', '-c', `ip route del ${host} via ${router()}; ip route del ${host}; true`]);
          await lab.lab.run('node1', ['sh', '-c', `ip route replace ${back} via ${onSwitch('lb1')}`]);
        }
      });
    });
  });
});

/** Those of lb1 that go with its link to the switch. */
async function restoreRoutes(): Promise<void> {
  const lines = (['node1', 'node2'] as const).flatMap((name) =>
    ([4, 6] as const).map((family) => {
      const address = lab
        .node(name)
        .addresses.filter((a) => a.includes(':') === (family === 6))
        .at(-1);
      const pods = lab.node(name).podCIDRs?.find((range) => range.includes(':') === (family === 6));
      return `route replace ${pods} via ${address}`;
    }),
  );
  await until('routes are back', async () => {
    try {
      await ip('lb1', ...lines);
      return true;
    } catch {
      return false; // the link is not there yet
    }
  });
}
