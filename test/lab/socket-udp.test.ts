import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { endpoint, Fixture, families, REJECTED } from '../support/fixture.js';

let f: Fixture;
beforeAll(async () => {
  f = await Fixture.create();
});
afterEach(() => f.reset());
afterAll(() => f?.close());

describe.each(families)('$name', ({ family, vip, other }) => {
  const udp = (name: string, address: string, backends: { address: string; port: number }[], port = 53) =>
    f.lb.addService({ name, frontends: [{ kind: 'cluster', address, port, protocol: 'udp' }], backends: backends.map(endpoint) });

  test('[1.2] answers to an unconnected socket come from the service address', async () => {
    const server = await f.serveUdp(5353, family);
    udp('dns', vip, [server]);
    const socket = await f.client.udp(family);
    const answer = await f.client.sendTo(socket, vip, 53);
    expect(answer.from).toEqual({ address: vip, port: 53 });
    await f.client.ask('close', { socket });
  });

  test('[1.2] a connected socket sees the service address as its peer and in answers', async () => {
    const server = await f.serveUdp(5353, family);
    udp('dns', vip, [server]);
    const socket = await f.client.udp(family);
    expect((await f.client.ask('connect', { socket, address: vip, port: 53 })).peer).toMatchObject({ address: vip, port: 53 });
    await f.client.ask('send', { socket, text: 'hi' });
    expect((await f.client.ask('recv', { socket })).from).toEqual({ address: vip, port: 53 });
    await f.client.ask('disconnect', { socket });
    // Directly, after the service: this one sees the backend.
    expect((await f.client.ask('connect', { socket, address: server.address, port: 5353 })).peer).toMatchObject({
      address: server.address,
      port: 5353,
    });
    await f.client.ask('send', { socket, text: 'hi' });
    expect((await f.client.ask('recv', { socket })).from).toEqual({ address: server.address, port: 5353 });
    await f.client.ask('disconnect', { socket });
    // And the service after the backend.
    expect((await f.client.ask('connect', { socket, address: vip, port: 53 })).peer).toMatchObject({ address: vip, port: 53 });
    await f.client.ask('send', { socket, text: 'hi' });
    expect((await f.client.ask('recv', { socket })).from).toEqual({ address: vip, port: 53 });
    await f.client.ask('close', { socket });
  });

  test('[1.2] one unconnected socket keeps a backend for each of twelve services', async () => {
    const servers = await Promise.all(Array.from({ length: 36 }, (_, i) => f.serveUdp(5301 + i, family)));
    const addresses = Array.from({ length: 12 }, (_, i) => (family === 4 ? `10.96.1.${i + 1}` : `fd00:96::1:${i + 1}`));
    for (const [i, address] of addresses.entries()) udp(`many-${i}`, address, servers.slice(3 * i, 3 * i + 3));
    const socket = await f.client.udp(family);
    const first = new Map<string, string | undefined>();
    for (let round = 0; round < 4; round++)
      for (const address of addresses) {
        const answer = await f.client.sendTo(socket, address, 53, 'who');
        expect(answer.from).toEqual({ address, port: 53 });
        if (round === 0) first.set(address, answer.text);
        expect(answer.text).toBe(first.get(address));
      }
    await f.client.ask('close', { socket });
  });

  test('[1.2] an unconnected socket moves to another backend when its own is gone', async () => {
    const servers = await Promise.all([5301, 5302].map((port) => f.serveUdp(port, family)));
    udp('move', vip, servers);
    const socket = await f.client.udp(family);
    const before = await f.client.sendTo(socket, vip, 53, 'who');
    const gone = servers.find((server) => before.text?.includes(String(server.port)));
    const rest = servers.filter((server) => server !== gone);
    f.lb.setBackends('move', rest.map(endpoint));
    const after = await f.client.sendTo(socket, vip, 53, 'who');
    expect(after.from).toEqual({ address: vip, port: 53 });
    expect(after.text).toContain(String(rest[0]?.port));
    await f.client.ask('close', { socket });
  });

  test('[1.2] a connected socket is destroyed when its backend is removed, no other is touched', async () => {
    const servers = await Promise.all([5301, 5302].map((port) => f.serveUdp(port, family)));
    const [kept, gone] = servers;
    if (!kept || !gone) throw new Error('no servers');
    udp('kept', vip, [kept]);
    udp('gone', other, [gone]);
    const [a, b, direct] = [await f.client.udp(family), await f.client.udp(family), await f.client.udp(family)];
    await f.client.ask('connect', { socket: a, address: vip, port: 53 });
    await f.client.ask('connect', { socket: b, address: other, port: 53 });
    await f.client.ask('connect', { socket: direct, address: gone.address, port: gone.port });
    f.lb.setBackends('gone', []);
    await f.lb.settled();
    expect((await f.client.ask('send', { socket: b, text: 'x' })).error).toMatch(/ECONNABORTED|EDESTADDRREQ|ECONNRESET|ERR_SOCKET/);
    for (const [socket, from] of [
      [a, { address: vip, port: 53 }],
      [direct, endpoint(gone)],
    ] as const) {
      expect(await f.client.ask('send', { socket, text: 'still' })).toEqual({});
      expect((await f.client.ask('recv', { socket })).from).toEqual(from);
    }
    for (const socket of [a, b, direct]) await f.client.ask('close', { socket });
  });

  test('[1.2] connected sockets stay with a terminating backend and leave a quarantined or maintained one', async () => {
    const servers = await Promise.all([5301, 5302].map((port) => f.serveUdp(port, family)));
    udp('states', vip, servers);
    for (const state of ['terminating', 'quarantined', 'maintenance'] as const) {
      f.lb.setBackends('states', servers.map(endpoint));
      const socket = await f.client.udp(family);
      await f.client.ask('connect', { socket, address: vip, port: 53 });
      await f.client.ask('send', { socket, text: 'who' });
      const mine = (await f.client.ask('recv', { socket })).text ?? '';
      f.lb.setBackends(
        'states',
        servers.map((server) => ({ ...endpoint(server), ...(mine.includes(String(server.port)) ? { state } : {}) })),
      );
      await f.lb.settled();
      const sent = await f.client.ask('send', { socket, text: 'again' });
      expect(sent.error === undefined).toBe(state === 'terminating');
      await f.client.ask('close', { socket });
    }
  });

  test('[1.2] unsolicited datagrams keep their own source', async () => {
    const server = await f.serveUdp(5353, family);
    udp('dns', vip, [server]);
    const [socket, stranger] = [await f.client.udp(family), await f.client.udp(family)];
    await f.client.sendTo(socket, vip, 53);
    const mine = (await f.client.ask('udp', { family })).port;
    expect(mine).toBeGreaterThan(0);
    const answer = await f.client.sendTo(stranger, server.address, 5353);
    expect(answer.from).toEqual(endpoint(server));
  });

  test('[1.2] sends to a service without backends fail, and succeed once there is one', async () => {
    const server = await f.serveUdp(5353, family);
    udp('later', vip, []);
    const socket = await f.client.udp(family);
    expect((await f.client.sendTo(socket, vip, 53)).error).toBe(REJECTED);
    f.lb.setBackends('later', [endpoint(server)]);
    expect((await f.client.sendTo(socket, vip, 53)).from).toEqual({ address: vip, port: 53 });
  });
});

test('[1.2] an IPv4-mapped socket sends through IPv4 and sees mapped service addresses', async () => {
  const server = await f.serveUdp(5353);
  f.lb.addService({
    name: 'mapped',
    frontends: [{ kind: 'cluster', address: '10.96.0.9', port: 53, protocol: 'udp' }],
    backends: [endpoint(server)],
  });
  const socket = await f.client.udp(6);
  expect((await f.client.sendTo(socket, '::ffff:10.96.0.9', 53)).from).toEqual({ address: '::ffff:10.96.0.9', port: 53 });
});
