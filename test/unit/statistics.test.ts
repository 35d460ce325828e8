import Long from 'long';
import { describe, expect, it, vi } from 'vitest';
import { toCounter } from '../../lib/counter.js';
import { type LoadBalancerError, reasons } from '../../lib/index.js';
import { openStub, thrownBy, untyped, WEB } from './open-stub.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

describe('counters', () => {
  it.each([0n, 1n, 2n ** 32n - 1n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n])('keep %s exactly, in JSON too', (value) => {
    const counter = toCounter(value);
    expect(Long.isLong(counter)).toBe(true);
    expect(counter.unsigned).toBe(true);
    expect(counter.toString()).toBe(String(value));
    expect(JSON.stringify({ counter })).toBe(`{"counter":"${value}"}`);
  });
});

describe('stats', () => {
  it('of everything: by hook and by reason', async () => {
    const { lb } = await openStub();
    const { byHook, byReason } = lb.stats();
    const forwarded = BigInt(reasons['forwarded'].number);
    expect(byHook.socket.connections.toString()).toBe(String(2n ** 63n + 7n - 110n * forwarded));
    expect([byHook.tc.connections.toNumber(), byHook.xdp.connections.toNumber()]).toEqual([
      Number(10n * forwarded),
      Number(100n * forwarded),
    ]);
    expect(byReason['forwarded'].toString()).toBe(String(2n ** 63n + 7n));
    expect(byHook.socket.packets.toString()).toBe('0');
    const failures = Object.values(reasons).filter(({ verdict }) => verdict === 'reject' || verdict === 'drop');
    const sum = failures.reduce((total, { number }) => total + number, 0);
    expect([byHook.socket, byHook.tc, byHook.xdp].map((hook) => hook.failures.toNumber())).toEqual([sum, 10 * sum, 100 * sum]);
    expect(Object.keys(byReason)).toEqual(Object.keys(reasons));
    expect(byReason['no-backends'].toNumber()).toBe(reasons['no-backends'].number * 111);
  });

  it('of a service: its backends, in their order', async () => {
    const { lb } = await openStub();
    const service = lb.addService({
      ...WEB,
      backends: [
        { address: '::1.2.3.4', port: 1 },
        { address: '10.0.0.1', port: 2, state: 'quarantined' },
      ],
    });
    const stats = service.stats();
    expect(JSON.parse(JSON.stringify(stats))).toEqual({
      service: 'default/web',
      connections: '106',
      packets: '0',
      bytes: '0',
      failures: '3',
      backends: [
        { address: '::102:304', port: 1, state: 'active', connections: '1', packets: '0', bytes: '0', failures: '0' },
        { address: '10.0.0.1', port: 2, state: 'quarantined', connections: '5', packets: '0', bytes: '0', failures: '0' },
      ],
    });
    expect(lb.stats('default/web')).toEqual(stats);
    expect(thrownBy(() => lb.stats('nope'))).toMatchObject({ code: 'ERR_SERVICE_NOT_FOUND', operation: 'stats' });
  });
});

describe('affinities', () => {
  const found = [
    { clientNetns: 2n ** 63n, service: 'default/web', address: '10.0.0.1', port: 8080, expiresInMs: 1000, family: 4 },
    { clientNetns: 7n, service: 'dns', address: 'fd00::1', port: 53, expiresInMs: 5, family: 6 },
  ];
  const entries = [
    { client: `netns:${2n ** 63n}`, service: 'default/web', backend: { address: '10.0.0.1', port: 8080 }, expiresInMs: 1000 },
    { client: 'netns:7', service: 'dns', backend: { address: 'fd00::1', port: 53 }, expiresInMs: 5 },
  ];

  it.each([
    [undefined, [0, 1]],
    [{}, [0, 1]],
    [{ service: 'dns' }, [1]],
    [{ client: 'netns:7' }, [1]],
    [{ backend: '10.0.0.1' }, [0]],
    [{ backend: '10.0.0.1:8080' }, [0]],
    [{ backend: '10.0.0.1:8081' }, []],
    [{ backend: '[fd00::1]:53' }, [1]],
    [{ protocol: 'udp' as const }, [1]],
    [{ service: 'dns', client: 'netns:8' }, []],
  ])('with filter %j', async (filter, expected) => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    lb.addService({ name: 'dns', address: 'fd00::a', port: 53, protocol: 'udp' });
    native.foundAffinities = found;
    expect([...lb.affinities(filter)]).toEqual(expected.map((i) => entries[i]));
  });

  it('check the filter at the call', async () => {
    const { lb } = await openStub();
    expect(thrownBy(() => lb.affinities(untyped({ svc: 'x' }))).path).toBe('svc');
    expect(thrownBy(() => lb.affinities(untyped({ protocol: 'icmp' }))).path).toBe('protocol');
  });
});

describe('connections', () => {
  const row = (rest: object) => ({
    protocol: 6,
    state: 'established',
    mode: 'snat' as const,
    service: 'default/web',
    clientAddress: '192.0.2.7',
    clientPort: 4000,
    frontendAddress: '192.0.2.1',
    frontendPort: 80,
    backendAddress: '10.0.0.1',
    backendPort: 8080,
    ageMs: 3000,
    idleMs: 1000,
    packets: 2n ** 63n,
    bytes: 1n,
    ...rest,
  });

  it('are listed as they are, 64-bit counters whole', async () => {
    const { lb, native } = await openStub();
    native.foundConnections = [row({ clientAddress: '::1.2.3.4' })];
    expect(JSON.parse(JSON.stringify([...lb.connections()]))).toEqual([
      {
        protocol: 'tcp',
        state: 'established',
        client: { address: '::102:304', port: 4000 },
        service: 'default/web',
        frontend: { address: '192.0.2.1', port: 80 },
        backend: { address: '10.0.0.1', port: 8080 },
        mode: 'snat',
        ageMs: 3000,
        idleMs: 1000,
        packets: '9223372036854775808',
        bytes: '1',
      },
    ]);
  });

  it.each([
    [{ service: 'default/web' }, [4000, 4001]],
    [{ client: '192.0.2.7' }, [4000]],
    [{ client: '[fd00::7]:4001' }, [4001]],
    [{ client: '192.0.2.7:4001' }, []],
    [{ backend: '10.0.0.1:8080' }, [4000, 4001, 4002]],
    [{ protocol: 'udp' as const }, [4002]],
  ])('are chosen by %j', async (filter, ports) => {
    const { lb, native } = await openStub();
    native.foundConnections = [
      row({}),
      row({ clientAddress: 'fd00::7', clientPort: 4001 }),
      row({ protocol: 17, clientPort: 4002, clientAddress: '192.0.2.8', service: 'dns' }),
    ];
    expect([...lb.connections(filter)].map(({ client }) => client.port)).toEqual(ports);
  });
});

describe('status', () => {
  it('is ready when something is attached and no canary failed', async () => {
    const { lb, native } = await openStub();
    expect(lb.status()).toMatchObject({
      ready: false,
      version: expect.any(String),
      kernel: expect.any(String),
      owner: { pid: process.pid },
    });
    const attachment = await lb.attachCgroup();
    expect(lb.status()).toMatchObject({ ready: true, attachments: [attachment], problems: [], maps: [{ name: 'frontends' }] });
    expect(lb.status()).not.toHaveProperty('canary');
    native.canaryOk = false;
    expect(await lb.verify()).toMatchObject({ ok: false });
    expect(lb.status()).toMatchObject({ ready: false, canary: { ok: false, ageMs: expect.any(Number) } });
  });

  it('has the path of the pins, and the problems of the addon', async () => {
    const { lb, native } = await openStub({ pinPath: '/sys/fs/bpf/t' });
    native.foundProblems = [{ code: 'PORT_OVERLAP', object: 'a', message: 'm', remedy: 'r' }];
    expect(lb.status()).toMatchObject({ pinPath: '/sys/fs/bpf/t', problems: native.foundProblems });
    expect(await lb.verify()).toMatchObject({
      ok: false,
      problems: native.foundProblems,
      canaries: [{ hook: 'socket', target: '/sys/fs/cgroup', ok: true, tookMs: 0.5 }],
    });
  });
});

describe('verify', () => {
  it('is ok when nothing is wrong', async () => {
    const { lb } = await openStub();
    expect(await lb.verify()).toEqual({
      ok: true,
      problems: [],
      canaries: [{ hook: 'socket', target: '/sys/fs/cgroup', ok: true, tookMs: 0.5 }],
    });
  });
});

describe('settled', () => {
  it('waits for the addon', async () => {
    const { lb, native } = await openStub();
    await lb.settled();
    expect(native.calls).toContain('settled');
  });
});

describe("the event 'error'", () => {
  const pinPath = '/sys/fs/bpf/t';

  async function failInBackground(listen: ((error: LoadBalancerError) => void) | undefined) {
    const writer = await openStub({ pinPath });
    const { lb } = await openStub({ pinPath, readonly: true }, writer.module);
    if (listen !== undefined) lb.on('error', listen);
    for (const settings of ['[', '{']) {
      writer.native.pins.settings = settings;
      writer.native.pins.number++;
      lb.services();
    }
    return lb;
  }

  it('is told to a listener, and then is no problem of status', async () => {
    const errors: LoadBalancerError[] = [];
    const lb = await failInBackground((error) => errors.push(error));
    expect(errors.map(({ code }) => code)).toEqual(['ERR_LAYOUT', 'ERR_LAYOUT']);
    expect(lb.status().problems).toEqual([]);
  });

  it('tells what the addon met in the background, and status() says it once', async () => {
    const { lb, native } = await openStub();
    const failure = {
      code: 'ERR_KERNEL',
      operation: 'sweep',
      object: 'sockets',
      message: 'Too many open files; connect again',
      errno: -24,
    };
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    native.fail(failure);
    expect(lb.status().problems).toEqual([
      { code: 'ERR_KERNEL', object: 'sweep', message: 'sweep sockets: EMFILE, Too many open files', remedy: 'connect again' },
    ]);
    native.foundProblems = [{ code: 'ERR_KERNEL', object: 'sweep', message: 'now', remedy: 'r' }];
    expect(lb.status().problems).toEqual(native.foundProblems);
    warn.mockRestore();
    const errors: LoadBalancerError[] = [];
    lb.on('error', (error) => errors.push(error));
    native.fail(failure);
    expect(errors).toMatchObject([{ name: 'LoadBalancerError', code: 'ERR_KERNEL', operation: 'sweep', errnoName: 'EMFILE' }]);
  });

  it('with no listener becomes a problem of status and one warning, never a crash', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const lb = await failInBackground(undefined);
    expect(lb.status().problems).toMatchObject([
      {
        code: 'ERR_LAYOUT',
        object: 'open',
        message: expect.stringContaining('cannot be read'),
        remedy: expect.stringContaining('remove them'),
      },
    ]);
    expect(warn).toHaveBeenCalledTimes(1);
    warn.mockRestore();
  });
});
