import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { DROPPED, endpoint, Fixture, families, REJECTED } from '../support/fixture.js';

let f: Fixture;
beforeAll(async () => {
  f = await Fixture.create();
});
afterEach(() => f.reset());
afterAll(() => f?.close());

describe.each(families)('$name', ({ family, vip, other }) => {
  test('[1.2] a TCP connection to a service address reaches a backend and sees the service address', async () => {
    const server = await f.serveHttp(8080, 'one', family);
    f.lb.addService({ name: 'tcp', address: vip, port: 80, backends: [endpoint(server)] });
    expect(await f.client.tcp(vip, 80)).toEqual({ peer: { address: vip, port: 80 }, body: 'one' });
  });

  test('[1.2] an address that is no service is left alone', async () => {
    const server = await f.serveHttp(8080, 'direct', family);
    f.lb.addService({ name: 'elsewhere', address: vip, port: 80, backends: [endpoint(server)] });
    expect(await f.client.tcp(server.address, 8080)).toEqual({ peer: { address: server.address, port: 8080 }, body: 'direct' });
    expect((await f.client.tcp(vip, 81)).error).toMatch(/ENETUNREACH|EHOSTUNREACH/);
  });

  test('[1.2] with no backends connect fails with ECONNREFUSED, with onNoBackends drop with EHOSTUNREACH', async () => {
    f.lb.addService({ name: 'none', address: vip, port: 80 });
    expect((await f.client.tcp(vip, 80)).error).toBe(REJECTED);
    f.lb.updateService('none', { onNoBackends: 'drop' });
    expect((await f.client.tcp(vip, 80)).error).toBe(DROPPED);
    f.lb.removeService('none');
    expect((await f.client.tcp(vip, 80)).error).toMatch(/ENETUNREACH/);
  });

  test('[1.2] a held connection survives the removal of its backend and of its service', async () => {
    const server = await f.serveHttp(8080, 'held', family);
    f.lb.addService({ name: 'held', address: vip, port: 80, backends: [endpoint(server)] });
    const held = await f.client.ask('hold', { address: vip, port: 80 });
    expect(held.peer).toEqual({ address: vip, port: 80 });
    f.lb.setBackends('held', []);
    f.lb.removeService('held');
    await f.lb.settled();
    expect(await f.client.ask('drop', { socket: held.socket })).toEqual({});
  });

  test('[1.2] a frontend moves between services within one apply', async () => {
    const [a, b] = [await f.serveHttp(8081, 'a', family), await f.serveHttp(8082, 'b', family)];
    await f.lb.apply([
      { name: 'a', address: vip, port: 80, backends: [endpoint(a)] },
      { name: 'b', address: other, port: 80, backends: [endpoint(b)] },
    ]);
    expect((await f.client.tcp(vip, 80)).body).toBe('a');
    await f.lb.apply([
      { name: 'a', address: other, port: 80, backends: [endpoint(a)] },
      { name: 'b', address: vip, port: 80, backends: [endpoint(b)] },
    ]);
    expect((await f.client.tcp(vip, 80)).body).toBe('b');
    expect((await f.client.tcp(other, 80)).body).toBe('a');
    await f.lb.apply([]);
    const report = await f.lb.verify();
    expect(report).toMatchObject({ ok: true, problems: [] });
  });
});

test('[1.2] an IPv4-mapped IPv6 socket is balanced as IPv4 and sees the service address mapped', async () => {
  const server = await f.serveHttp(8080, 'mapped');
  f.lb.addService({ name: 'mapped', address: '10.96.0.9', port: 80, backends: [endpoint(server)] });
  expect(await f.client.tcp('::ffff:10.96.0.9', 80)).toEqual({ peer: { address: '::ffff:10.96.0.9', port: 80 }, body: 'mapped' });
});

test('[1.2] a service of both families uses the backends of the family that was asked', async () => {
  const [four, six] = [await f.serveHttp(8080, 'four', 4), await f.serveHttp(8080, 'six', 6)];
  f.lb.addService({
    name: 'dual',
    frontends: [
      { kind: 'cluster', address: '10.96.0.1', port: 80 },
      { kind: 'cluster', address: 'fd00:96::1', port: 80 },
    ],
    backends: [endpoint(four), endpoint(six)],
  });
  expect((await f.client.tcp('10.96.0.1', 80)).body).toBe('four');
  expect((await f.client.tcp('fd00:96::1', 80)).body).toBe('six');
});

test('nested attachments translate once and detach cleanly', async () => {
  const server = await f.serveHttp(8080, 'nested');
  // The backend's own address is a service too: a second translation would end there.
  f.lb.addService({ name: 'outer', address: '10.96.0.1', port: 80, backends: [endpoint(server)] });
  f.lb.addService({ name: 'trap', frontends: [{ kind: 'external', address: server.address, port: 8080 }] });
  const inner = `${f.lab.cgroup}/inner`;
  await f.lab.run('client', ['mkdir', '-p', inner]);
  const attachment = await f.lb.attachCgroup(inner);
  const script = `echo $$ > ${inner}/cgroup.procs && exec curl -s -m 5 http://10.96.0.1/`;
  expect(await f.lab.run('client', ['sh', '-c', script])).toContain('nested');
  await attachment.detach();
  expect(f.lb.attachments()).toHaveLength(1);
});

test('an attachment for chosen namespaces leaves the others alone', async () => {
  const server = await f.serveHttp(8080, 'chosen');
  f.lb.addService({ name: 'chosen', address: '10.96.0.1', port: 80, backends: [endpoint(server)] });
  await f.lb.attachCgroup(f.lab.cgroup, { namespaces: [f.lab.netns('server')] });
  expect((await f.client.tcp('10.96.0.1', 80)).error).toMatch(/ENETUNREACH/);
  expect(await f.lab.run('server', ['curl', '-s', '-m', '5', 'http://10.96.0.1/'])).toContain('chosen');
  await f.lb.attachCgroup(f.lab.cgroup);
  expect((await f.client.tcp('10.96.0.1', 80)).body).toBe('chosen');
});
