import { once } from 'node:events';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { CommandError, Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { processesIn } from '../../lib/lab/cgroup.js';
import { slow, until } from '../support/fixture.js';
import { holdersOf, hostState, inodeOf, isAlive, tracesOf } from './lab-traces.js';

vi.setConfig({ testTimeout: 60_000 * slow, hookTimeout: 60_000 * slow });

/** Sends `hello` over a connected UDP socket, which takes answers from that address only. */
const udpClient = `
const [address, port] = process.argv.slice(1);
const socket = require('node:dgram').createSocket(address.includes(':') ? 'udp6' : 'udp4');
socket.on('message', (message) => { console.log(String(message)); socket.close(); });
socket.on('error', (error) => { console.error(error.code); process.exit(1); });
socket.connect(Number(port), address, () => socket.send('hello'));`;

/** Connects, says so, and reports how the connection ends. */
const tcpClient = `
const socket = require('node:net').connect(Number(process.argv[2]), process.argv[1], () => console.log('connected'));
socket.on('error', () => {});
socket.on('close', () => console.log('closed'));`;

const inNode = (script: string, ...args: (string | number)[]) => [process.execPath, '-e', script, ...args.map(String)];
const curl = (url: string) => ['curl', '--silent', '--show-error', '--max-time', String(10 * slow), url];

describe('a lab with a switch', () => {
  let lab: Lab;
  let before: Record<string, unknown>;
  beforeAll(async () => {
    before = hostState();
    lab = await Lab.create({ namespaces: ['client', 'server', 'other'] });
  });
  afterAll(() => lab.close());

  it('connects its namespaces over IPv4 and IPv6', async () => {
    const server = await lab.serveHttp('server', 8000);
    const [v4, v6] = [lab.address('server'), lab.address('server', 6)];
    expect(await lab.run('client', curl(`http://${v4}:8000/`))).toBe(`${v4}:8000\n`);
    expect(await lab.run('client', curl(`http://[${v6}]:8000/`))).toBe(`[${v6}]:8000\n`);
    expect(await lab.run('server', curl('http://127.0.0.1:8000/'))).toBe('127.0.0.1:8000\n');
    await server.stop();
  });

  it('gives every namespace addresses of its own, ready for use', async () => {
    const all = ['client', 'server', 'other'].flatMap((name) => [lab.address(name), lab.address(name, 6)]);
    expect(new Set(all).size).toBe(6);
    expect(await lab.run('client', ['ip', 'addr'])).not.toMatch(/tentative|dadfailed/);
    expect(await lab.run('client', ['ip', '-brief', 'addr', 'show', 'dev', lab.device('client')])).toContain(lab.address('client', 6));
  });

  it.each(['http://10.96.0.1/', 'http://[fd00:10:96::1]/', 'http://192.0.2.1/'])(
    'has no way out: a connection to %s fails at once',
    async (url) => {
      const started = performance.now();
      await expect(lab.run('client', curl(url))).rejects.toMatchObject({ code: 'ERR_COMMAND', exitCode: 7 });
      expect(performance.now() - started).toBeLessThan(2000 * slow);
    },
  );

  it('has no route but those of its own links', async () => {
    const routes = (await lab.run('client', ['sh', '-c', 'ip route; ip -6 route'])).trim().split('\n');
    expect(routes.filter((route) => !/^(10\.10\.0\.0\/16|fd00:10:10::\/64|fe80::\/64) dev eth0 proto kernel/.test(route))).toEqual([]);
    expect(await lab.run('client', ['cat', '/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/ipv6/conf/all/forwarding'])).toBe('0\n0\n');
  });

  it("leaves the host's own links, addresses, routes, mounts and settings as they were", () => {
    expect(hostState()).toEqual(before);
  });

  it('names namespaces by paths that any process can enter', async () => {
    expect(statSync(lab.netns('client')).ino).not.toBe(statSync('/proc/self/ns/net').ino);
    const inside = await lab.run('client', ['readlink', '/proc/self/ns/net']);
    expect(inside.trim()).toBe(inodeOf(lab.netns('client')));
    expect(inside.trim()).not.toBe(inodeOf(lab.netns('server')));
  });

  it('completes checksums before packets leave a device, as XDP programs need it', async () => {
    expect(await lab.run('client', ['ethtool', '-k', lab.device('client')])).toContain('tx-checksumming: off');
  });

  it('refuses names that it does not know', async () => {
    for (const call of [
      () => lab.netns('nobody'),
      () => lab.address(''),
      () => lab.device('nobody'),
      () => lab.spawn('nobody', ['true']),
    ]) {
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_NOT_FOUND' }));
    }
    await expect(lab.run('nobody', ['true'])).rejects.toThrow('run nobody: the lab has no such namespace; it has client, server, other');
    await expect(lab.serveHttp('nobody', 1)).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
    expect(() => lab.device('client', 'server')).toThrow("no link to 'server'");
  });
});

describe('what a lab starts', () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.create({ namespaces: ['client', 'server'] });
  });
  afterAll(() => lab.close());

  it("is in the lab's cgroup from the first instruction", async () => {
    const cgroup = (await lab.run('client', ['cat', '/proc/self/cgroup'])).split('\n').find((line) => line.startsWith('0::'));
    expect(lab.cgroup.endsWith(cgroup?.slice('0::'.length) ?? 'nothing')).toBe(true);
    expect(readFileSync(`${lab.cgroup}/cgroup.procs`, 'utf8')).not.toContain(`${process.pid}\n`);
    const child = lab.spawn('client', ['sleep', '1000']);
    await until('the child is in the cgroup', () => processesIn(lab.cgroup).includes(child.pid ?? 0));
    child.kill();
    await once(child, 'exit');
  });

  it('gets input and gives back output', async () => {
    expect(await lab.run('client', ['cat'], { input: 'grüße\n' })).toBe('grüße\n');
    expect(await lab.run('client', ['cat'])).toBe('');
    expect(await lab.run('client', ['true'], { input: 'x'.repeat(1 << 20) })).toBe('');
    expect(await lab.run('client', ['sh', '-c', 'head -c 3000000 /dev/zero | tr "\\0" x'])).toHaveLength(3_000_000);
  });

  it('tells why it failed', async () => {
    const error = await lab.run('client', ['sh', '-c', 'echo out; echo "no luck" >&2; exit 3']).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(CommandError);
    expect(error).toMatchObject({ code: 'ERR_COMMAND', exitCode: 3, stdout: 'out\n', stderr: 'no luck\n', timedOut: false });
    expect((error as Error).message).toMatch(/^run client: sh -c .* failed with exit code 3: no luck$/s);
    await expect(lab.run('client', ['no-such-program'])).rejects.toThrow(/no-such-program.*No such file/);
    await expect(lab.run('client', ['sh', '-c', 'kill -TERM $$'])).rejects.toMatchObject({ exitCode: null, signal: 'SIGTERM' });
    await expect(lab.run('client', [])).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
  });

  it('is killed at its timeout, with its children', async () => {
    const command = ['sh', '-c', 'sleep 1000 & echo $!; wait'];
    const error = await lab.run('client', command, { timeoutMs: 300 * slow }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'ERR_COMMAND', timedOut: true });
    expect((error as Error).message).toContain(`did not end within ${300 * slow} ms`);
    const child = Number((error as CommandError).stdout);
    expect(child).toBeGreaterThan(0);
    await until('its child is gone', () => !isAlive(child));
  });

  it('has pipes and a pid when it was spawned', async () => {
    const child = lab.spawn('client', ['sh', '-c', 'read line; echo "$line $$"']);
    child.stdin?.end('hello\n');
    let output = '';
    child.stdout?.on('data', (data: Buffer) => {
      output += data.toString();
    });
    const [code] = await once(child, 'close');
    expect([code, output]).toEqual([0, `hello ${child.pid}\n`]);
  });
});

describe('a server of a lab', () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.create({ namespaces: ['client', 'server'] });
  });
  afterAll(() => lab.close());

  it('is an endpoint and nothing else to those who look at its keys, so that it can be a backend', async () => {
    const server = await lab.serveHttp('server', 8001);
    expect({ ...server }).toEqual({ address: lab.address('server'), port: 8001 });
    expect(Object.keys(server).sort()).toEqual(['address', 'port']);
    expect(server.namespace).toBe('server');
    await server.stop();
  });

  it('answers with the body it was given, after the delay it was given', async () => {
    const server = await lab.serveHttp('server', 8002, { body: 'I am b\n', delayMs: 300 });
    const started = performance.now();
    expect(await lab.run('client', curl(`http://${server.address}:8002/`))).toBe('I am b\n');
    expect(performance.now() - started).toBeGreaterThanOrEqual(300);
    await server.stop();
  });

  it('listens on the address it was given, and on no other', async () => {
    const address = lab.address('server', 6);
    const server = await lab.serveHttp('server', 8003, { address });
    expect(server.address).toBe(address);
    expect(await lab.run('client', curl(`http://[${address}]:8003/`))).toBe(`[${address}]:8003\n`);
    await expect(lab.run('client', curl(`http://${lab.address('server')}:8003/`))).rejects.toMatchObject({ exitCode: 7 });
    await server.stop();
  });

  it('has closed its port and its connections when stop() resolves, and leaves the others alone', async () => {
    const [server, other] = await Promise.all([lab.serveHttp('server', 8004), lab.serveHttp('server', 8005)]);
    const client = lab.spawn('client', inNode(tcpClient, server.address, 8004));
    const output: string[] = [];
    client.stdout?.on('data', (data: Buffer) => output.push(data.toString()));
    await until('the client is connected', () => output.join('') === 'connected\n');
    await Promise.all([server.stop(), server.stop()]);
    await once(client, 'close');
    expect(output.join('')).toBe('connected\nclosed\n');
    await expect(lab.run('client', curl(`http://${server.address}:8004/`))).rejects.toMatchObject({ exitCode: 7 });
    expect(await lab.run('client', curl(`http://${other.address}:8005/`))).toContain(':8005');
    const again = await lab.serveHttp('server', 8004);
    await Promise.all([again.stop(), other.stop()]);
  });

  it('rejects when its port is in use, and when there is no such address', async () => {
    const taken = [await lab.serveHttp('server', 8006), await lab.serveUdp('server', 8006)];
    await expect(lab.serveHttp('server', 8006)).rejects.toMatchObject({ code: 'ERR_KERNEL', errnoName: 'EADDRINUSE' });
    await expect(lab.serveUdp('server', 8006)).rejects.toThrow(/^serveUdp server port 8006: .*EADDRINUSE/);
    await expect(lab.serveHttp('server', 8007, { address: '192.0.2.1' })).rejects.toThrow('EADDRNOTAVAIL');
    await expect(lab.serveHttp('server', 70000)).rejects.toThrow('serveHttp: port must be 1 to 65535, got 70000');
    await expect(lab.serveUdp('server', 8007, { address: 'server' })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
    await Promise.all(taken.map((server) => server.stop()));
  });

  it.each([4, 6] as const)('answers UDP from the IPv%i address that was asked, and says which that is', async (family) => {
    const server = await lab.serveUdp('server', 8008);
    const address = lab.address('server', family);
    const name = family === 4 ? `${address}:8008` : `[${address}]:8008`;
    expect(await lab.run('client', inNode(udpClient, address, 8008), { timeoutMs: 10_000 * slow })).toBe(`${name} hello\n`);
    await server.stop();
    await expect(lab.run('client', inNode(udpClient, address, 8008), { timeoutMs: 10_000 * slow })).rejects.toThrow('ECONNREFUSED');
  });

  it('comes back in a new process when the namespace lost the old one', async () => {
    await lab.serveHttp('server', 8009);
    const host = processesIn(lab.cgroup).find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('server.main'));
    process.kill(host ?? 0, 'SIGKILL');
    const outcome = () => lab.serveHttp('server', 8009).catch((error: { code: string }) => error.code);
    await until('there is a server again', async () => (await outcome()) !== 'ERR_CLOSED');
    expect(await lab.run('client', curl(`http://${lab.address('server')}:8009/`))).toContain(':8009');
  });
});

describe('a routed lab', () => {
  it('forwards between links that have the prefixes and MTUs asked for', async () => {
    const lab = await Lab.create({
      links: [
        {
          between: ['left', 'router'],
          addresses: [
            ['10.1.0.1/24', '10.1.0.254/24'],
            ['fd01::1/64', 'fd01::ff/64'],
          ],
          mtu: 9000,
        },
        {
          between: ['router', 'right'],
          addresses: [
            ['10.2.0.254/24', '10.2.0.1/24'],
            ['fd02::ff/64', 'fd02::1/64'],
          ],
          mtu: 1400,
        },
      ],
    });
    try {
      for (const [namespace, prefixes, via] of [
        ['left', ['10.2.0.0/24', 'fd02::/64'], ['10.1.0.254', 'fd01::ff']],
        ['right', ['10.1.0.0/24', 'fd01::/64'], ['10.2.0.254', 'fd02::ff']],
      ] as const) {
        for (const i of [0, 1]) await lab.run(namespace, ['ip', 'route', 'add', prefixes[i] ?? '', 'via', via[i] ?? '']);
      }
      // More than one packet of either MTU.
      const body = 'x'.repeat(100_000);
      await lab.serveHttp('left', 80, { body });
      expect(lab.address('left', 6)).toBe('fd01::1');
      expect(await lab.run('right', curl('http://10.1.0.1/'))).toBe(body);
      expect(await lab.run('right', curl('http://[fd01::1]/'))).toBe(body);
      expect(await lab.run('left', ['ip', 'link', 'show', lab.device('left')])).toContain(' mtu 9000 ');
      expect(await lab.run('router', ['ip', 'link', 'show', lab.device('router', 'right')])).toContain(' mtu 1400 ');
      await expect(lab.run('left', curl('http://10.96.0.1/'))).rejects.toMatchObject({ exitCode: 7 });
    } finally {
      await lab.close();
    }
  });

  it('chooses addresses where none are given', async () => {
    const lab = await Lab.create({ links: [{ between: ['a', 'b'] }, { between: ['b', 'c'] }] });
    try {
      await Promise.all(['b', 'c'].map((name) => lab.serveHttp(name, 80)));
      expect(await lab.run('a', curl(`http://${lab.address('b')}/`))).toBe(`${lab.address('b')}:80\n`);
      expect(await lab.run('b', curl(`http://[${lab.address('c', 6)}]/`))).toBe(`[${lab.address('c', 6)}]:80\n`);
    } finally {
      await lab.close();
    }
  });
});

describe('the options of a lab', () => {
  it.each([
    [{ namespaces: ['a b'] }, 'namespaces[0]'],
    [{ namespaces: ['a', 'a'] }, 'namespaces[1]'],
    [{ namespaces: [''] }, 'namespaces[0]'],
    [{ links: [{ between: ['a', 'a'] }] }, 'links[0].between'],
    [{ links: [{ between: ['a', 'b'], mtu: 10 }] }, 'links[0].mtu'],
    [{ links: [{ between: ['a', 'b'], addresses: [['10.0.0.1/24', '10.0.0.2']] }] }, 'links[0].addresses[0][1]'],
    [{ links: [{ between: ['a', 'b'], addresses: [['10.0.0.1/33', '10.0.0.2/33']] }] }, 'links[0].addresses[0][0]'],
    [{ namespace: ['a'] }, 'namespace'],
  ])('%j is refused before anything is created', async (options, path) => {
    await expect(Lab.create(options as Parameters<typeof Lab.create>[0])).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path });
    expect(tracesOf(process.pid)).toEqual([]);
  });

  it('that the kernel refuses leave nothing behind', async () => {
    const links = [{ between: ['a', 'b'] as [string, string], addresses: [['fd01::1/64', 'fd01::2/64'] as [string, string]], mtu: 1000 }];
    await expect(Lab.create({ links })).rejects.toMatchObject({ code: 'ERR_KERNEL' });
    expect(tracesOf(process.pid)).toEqual([]);
  });
});

describe('close()', () => {
  it('resolves when cgroup, namespaces and processes are gone, however often it is called', async () => {
    const lab = await Lab.create({ namespaces: ['client', 'server'] });
    const server = await lab.serveHttp('server', 80);
    await lab.run('server', ['sh', '-c', 'setsid sleep 1000 > /dev/null 2>&1 &']);
    const child = lab.spawn('client', ['sleep', '1000']);
    const running = lab.run('client', ['sleep', '1000']).catch((error: unknown) => error);
    const namespaces = ['client', 'server'].map((name) => inodeOf(lab.netns(name)));
    await Promise.all([lab.close(), lab.close()]);
    expect(existsSync(lab.cgroup)).toBe(false);
    expect(tracesOf(process.pid)).toEqual([]);
    expect(holdersOf(namespaces)).toEqual([]);
    expect(child.signalCode).toBe('SIGKILL');
    expect(await running).toMatchObject({ code: 'ERR_COMMAND', signal: 'SIGKILL' });
    await lab.close();
    await server.stop();
    await expect(lab.run('client', ['true'])).rejects.toMatchObject({ code: 'ERR_CLOSED' });
    await expect(lab.serveHttp('client', 80)).rejects.toMatchObject({ code: 'ERR_CLOSED' });
  });

  it('is what the end of an `await using` block does', async () => {
    let cgroup: string;
    {
      await using lab = await Lab.create({ namespaces: ['a'] });
      cgroup = lab.cgroup;
      expect(existsSync(cgroup)).toBe(true);
    }
    expect(existsSync(cgroup)).toBe(false);
  });

  it('removes cgroups that were made in the lab', async () => {
    const lab = await Lab.create({ namespaces: ['a'] });
    await lab.run('a', [
      'sh',
      '-e',
      '-c',
      `mkdir -p ${lab.cgroup}/x/y; echo $$ > ${lab.cgroup}/x/y/cgroup.procs; setsid sleep 1000 > /dev/null 2>&1 &`,
    ]);
    await lab.close();
    expect(tracesOf(process.pid)).toEqual([]);
  });

  it('removes what is left when the helper process was killed', async () => {
    const lab = await Lab.create({ namespaces: ['a'] });
    await lab.serveHttp('a', 80);
    process.kill(Number(lab.netns('a').split('/')[2]), 'SIGKILL');
    const outcome = () => lab.run('a', ['true']).catch((error: { code: string }) => error.code);
    await until('the lab has noticed', async () => (await outcome()) === 'ERR_CLOSED');
    await lab.close();
    expect(tracesOf(process.pid)).toEqual([]);
  });
});

describe('several labs at once', () => {
  it('have the same names and addresses and do not meet', async () => {
    const labs = await Promise.all([1, 2, 3].map(() => Lab.create({ namespaces: ['client', 'server'] })));
    try {
      await Promise.all(labs.map((lab, i) => lab.serveHttp('server', 80, { body: `lab ${i}` })));
      const answers = await Promise.all(labs.map((lab) => lab.run('client', curl(`http://${lab.address('server')}/`))));
      expect(answers).toEqual(['lab 0', 'lab 1', 'lab 2']);
      await labs[0]?.close();
      expect(await labs[1]?.run('client', curl(`http://${labs[1].address('server')}/`))).toBe('lab 1');
    } finally {
      await Promise.all(labs.map((lab) => lab.close()));
    }
    expect(tracesOf(process.pid)).toEqual([]);
  });
});
