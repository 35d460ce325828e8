import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile } from '../support/compile.js';

let lab: Lab;
let lb: LoadBalancer;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
  lb = await LoadBalancer.open();
  await lb.attachCgroup(lab.cgroup);
});
afterAll(async () => {
  await lb?.close();
  await lab?.close();
});

const families = [
  { name: 'IPv4', vip: '10.96.0.1', other: '10.96.0.2', backend: (n: number) => ({ address: `10.1.0.${n}`, port: 53 }) },
  { name: 'IPv6', vip: 'fd00:96::1', other: 'fd00:96::2', backend: (n: number) => ({ address: `fd01::${n}`, port: 53 }) },
];

async function sockets(address: string, count: number, twins = false): Promise<{ errnos(): Promise<number[]> }> {
  const child: ChildProcess = lab.spawn('client', [compile('orphan'), address, '53', String(count), twins ? '1' : '0']);
  let text = '';
  child.stdout?.on('data', (chunk) => {
    text += chunk;
  });
  if (child.stdout) await once(child.stdout, 'data');
  expect(text).toBe('ready\n');
  return {
    async errnos() {
      child.stdin?.end('go\n');
      await once(child, 'close');
      return text.trim().split('\n').slice(1).map(Number);
    },
  };
}

const gone = [89, 103]; // EDESTADDRREQ, ECONNABORTED: the application connects again

describe.each(families)('$name', ({ vip, other, backend }) => {
  const udp = (name: string, address: string, backends: { address: string; port: number }[]) =>
    lb.addService({ name, frontends: [{ kind: 'cluster', address, port: 53, protocol: 'udp' }], backends });

  test('[1.2] sockets in a namespace without name or process are destroyed with their backend, and only those', async () => {
    udp('dying', vip, [backend(1)]);
    udp('living', other, [backend(2)]);
    const [dying, living, direct] = [await sockets(vip, 3), await sockets(other, 3), await sockets(backend(1).address, 3)];
    lb.setBackends('dying', [backend(3)]);
    await lb.settled();
    for (const errno of await dying.errnos()) expect(gone).toContain(errno);
    // Nobody listens there: an answer from lo, or none yet.
    for (const errno of [...(await living.errnos()), ...(await direct.errnos())]) expect([0, 111]).toContain(errno);
    await lb.apply([]);
  });

  test('[1.2] twins on one port (SO_REUSEPORT) are all destroyed', async () => {
    udp('twins', vip, [backend(1)]);
    const twins = await sockets(vip, 4, true);
    lb.removeService('twins');
    await lb.settled();
    const errnos = await twins.errnos();
    expect(errnos).toHaveLength(4);
    for (const errno of errnos) expect(gone).toContain(errno);
  });
});
