import { mkdirSync, rmdirSync } from 'node:fs';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { pinDirectory, removePins } from '../support/pins.js';
import { runUntil } from '../support/program.js';

let lab: Lab;
let client: Client;
let pinPath: string;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client', 'server'] });
  client = new Client(lab, 'client');
});
afterAll(() => {
  client?.end();
  return lab?.close();
});
beforeEach(() => {
  pinPath = pinDirectory();
});
afterEach(() => removePins(pinPath));

const shell = (script: string) => lab.run('client', ['sh', '-ec', `PATH=$PATH:/usr/sbin; ${script}`]);

/** Ways of TCP sockets that are taken. */
async function ways(): Promise<number> {
  let taken = 0;
  for (const map of ['peers4', 'peers6']) {
    const rows = JSON.parse(await shell(`bpftool -j map dump pinned ${pinPath}/${map}`)) as { formatted: { value: { cookie: number[] } } }[];
    for (const { formatted } of rows) taken += formatted.value.cookie.filter((cookie) => cookie !== 0).length;
  }
  return taken;
}

test('[1.4] ways of TCP sockets that outlive a detach are given back, at once or by the next open', async () => {
  const servers = await Promise.all(([4, 6] as const).map((family) => lab.serveHttp('server', 8080, { address: lab.address('server', family) })));
  const vips = ['10.96.0.1', 'fd00:96::1'];
  const attach = `const lb = await LoadBalancer.open({ pinPath: '${pinPath}', capacity: { connections: 128 } }); const a = await lb.attachCgroup('${lab.cgroup}');`;
  let lb = await LoadBalancer.open({ pinPath, capacity: { connections: 128 } });
  vips.forEach((address, i) => {
    lb.addService({ name: `s${i}`, address, port: 80, backends: [{ address: servers[i]!.address, port: 8080 }] });
  });
  const held: number[] = [];
  const hold = async (address: string) => {
    const { socket, peer, error } = await client.ask('hold', { address, port: 80 });
    expect({ error, peer }).toEqual({ error: undefined, peer: { address, port: 80 } });
    held.push(socket!);
  };
  let attachment = await lb.attachCgroup(lab.cgroup);
  for (const address of vips) await hold(address);
  expect(await ways()).toBe(2);
  // Another attachment, which stays, keeps its own: the inner one is told by its own sockets.
  await attachment.detach();
  await lb.settled();
  expect(await ways()).toBe(0);
  attachment = await lb.attachCgroup(lab.cgroup);
  for (const address of vips) await hold(address);
  expect(await ways()).toBe(2);
  await lb.close();
  // Killed in the middle of the detach: what is left is found by the next open.
  await runUntil(10, `${attach} await a.detach()`);
  expect(await ways()).toBe(2);
  lb = await LoadBalancer.open({ pinPath });
  expect(lb.attachments()).toEqual([]);
  await lb.settled();
  expect(await ways()).toBe(0);
  for (const socket of held) await client.ask('drop', { socket });
  await lb.close({ detach: true });
  await Promise.all(servers.map((server) => server.stop()));
});

test('[1.4] ways of an attachment that lives are left alone while another one goes', async () => {
  const server = await lab.serveHttp('server', 8080);
  const lb = await LoadBalancer.open({ pinPath, capacity: { connections: 128 } });
  lb.addService({ name: 's', address: '10.96.0.1', port: 80, backends: [{ address: server.address, port: 8080 }] });
  const other = `${lab.cgroup}/other`;
  mkdirSync(other);
  await lb.attachCgroup(lab.cgroup);
  const gone = await lb.attachCgroup(other);
  const { socket } = await client.ask('hold', { address: '10.96.0.1', port: 80 });
  await gone.detach();
  await lb.settled();
  expect(await ways()).toBe(1);
  expect(await client.ask('drop', { socket })).not.toHaveProperty('error');
  await lb.close({ detach: true });
  rmdirSync(other);
  await server.stop();
});
