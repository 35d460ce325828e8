import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { LoadBalancer, type ServiceSpec } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { families, slow, until } from '../support/fixture.js';
import { pinDirectory, removePins } from '../support/pins.js';

/** A client behind one device of the balancer's node, a server behind the other. */
let lab: Lab;
let client: Client;
let netns: string;
let towardsClient: string;
const servers: { stop(): Promise<void> }[] = [];
beforeAll(async () => {
  lab = await Lab.create({
    links: [{ between: ['client', 'lb'] }, { between: ['lb', 'server'] }],
  });
  client = new Client(lab, 'client');
  netns = lab.netns('lb');
  towardsClient = lab.device('lb', 'client');
  for (const { family, vip } of families) {
    const [ip, bits] = family === 4 ? ['ip', 32] : ['ip -6', 128];
    const near = lab.address('lb', family);
    await lab.run('client', ['sh', '-ec', `${ip} route add ${vip}/${bits} via ${near}`]);
    const far = (
      await lab.run('lb', ['ip', '-o', `-${family}`, 'addr', 'show', 'dev', lab.device('lb', 'server'), 'scope', 'global'])
    ).match(/inet6? ([^/]+)/)![1]!;
    toServer.set(family, far);
    await lab.run('server', ['sh', '-ec', `${ip} route add ${near}/${bits} via ${far}`]);
    servers.push(await lab.serveHttp('server', 8080, { address: lab.address('server', family), body: 'served' }));
  }
});
const toServer = new Map<number, string>();
afterAll(async () => {
  client?.end();
  for (const server of servers) await server.stop();
  await lab?.close();
});

const opened: LoadBalancer[] = [];
async function open(options: Parameters<typeof LoadBalancer.open>[0] = {}): Promise<LoadBalancer> {
  const addresses = families.flatMap(({ family }) => [lab.address('lb', family), toServer.get(family)!]);
  const lb = await LoadBalancer.open({ netns, node: { name: 'lb', addresses }, ...options });
  opened.push(lb);
  return lb;
}
afterEach(async () => {
  for (const lb of opened.splice(0)) await lb.close();
});

const web = (family: 4 | 6, vip: string, rest: Partial<ServiceSpec> = {}): ServiceSpec => ({
  name: `web${family}`,
  frontends: [{ kind: 'loadBalancer', address: vip, port: 80 }],
  backends: [{ address: lab.address('server', family), port: 8080 }],
  ...rest,
});
/** The answer's body, or why there is none. What is dropped is not told: the client goes on trying meanwhile. */
async function ask(vip: string, timeoutMs = 1000 * slow): Promise<string> {
  const silence = new Promise<string>((resolve) => setTimeout(resolve, timeoutMs, 'no answer'));
  const { answers, errors, error } = await Promise.race([
    client.ask('http', { address: vip, port: 80, count: 1 }),
    silence.then((text) => ({ answers: undefined, errors: undefined, error: text })),
  ]);
  return Object.keys(answers ?? {})[0] ?? `no answer: ${error ?? Object.keys(errors ?? {})[0]}`;
}
/** As the library writes addresses. */
const canonical = (address: string) => (address.includes(':') ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address);

describe.each(families)('$name', ({ family, vip }) => {
  test('[2.1] what comes from outside reaches a backend elsewhere, and connections() lists it', async () => {
    const lb = await open();
    lb.addService(web(family, vip));
    await lb.attachTc(towardsClient, { role: 'external' });
    await lb.attachTc(lab.device('lb', 'server'), { role: 'external' });
    expect(await ask(vip)).toBe('served');
    const [found, ...others] = [...lb.connections({ service: `web${family}` })];
    expect(others).toEqual([]);
    expect(found).toMatchObject({
      protocol: 'tcp',
      client: { address: canonical(lab.address('client', family)) },
      frontend: { address: vip, port: 80 },
      backend: { address: canonical(lab.address('server', family)), port: 8080 },
      mode: 'snat',
    });
    expect(found!.packets.toNumber()).toBeGreaterThan(6);
    expect(found!.idleMs).toBeLessThan(5000);
    expect([...lb.connections({ client: '203.0.113.1' })]).toEqual([]);
    expect(lb.status().problems).toEqual([]);
  });

  test('source ranges let in whom they name, also when they change', async () => {
    const lb = await open();
    lb.addService(web(family, vip, { sourceRanges: ['203.0.113.0/24', '2001:db8::/32'] }));
    await lb.attachTc(towardsClient, { role: 'external' });
    await lb.attachTc(lab.device('lb', 'server'), { role: 'external' });
    expect(await ask(vip)).toMatch(/^no answer/);
    expect(lb.stats().byReason['source-not-allowed'].toNumber()).toBeGreaterThan(0);
    lb.updateService(`web${family}`, { sourceRanges: [`${lab.address('client', family)}/${family === 4 ? 32 : 128}`] });
    expect(await ask(vip)).toBe('served');
    await lb.settled();
    expect((await lb.verify()).problems).toEqual([]);
    lb.updateService(`web${family}`, { sourceRanges: null });
    expect(await ask(vip)).toBe('served');
  });
});

test('[2.1] pinned hooks balance on after SIGKILL, and the next process takes them over with ranges and settings', async () => {
  const pinPath = pinDirectory();
  const script = `
    import { LoadBalancer } from 'ebpf-lb';
    const [pinPath, netns, first, second, node, services] = process.argv.slice(1);
    const lb = await LoadBalancer.open({ pinPath, netns, node: JSON.parse(node) });
    await lb.apply(JSON.parse(services));
    await lb.attachTc(first, { role: 'external' });
    await lb.attachXdp(second, { mode: 'generic' });
    console.log('ready');
    setInterval(() => {}, 1000);`;
  const addresses = families.flatMap(({ family }) => [lab.address('lb', family), toServer.get(family)!]);
  const services = families.map(({ family, vip }) =>
    web(family, vip, { sourceRanges: [`${lab.address('client', family)}/${family === 4 ? 24 : 64}`] }),
  );
  try {
    const child = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        script,
        pinPath,
        netns,
        towardsClient,
        lab.device('lb', 'server'),
        JSON.stringify({ name: 'lb', addresses }),
        JSON.stringify(services),
      ],
      { cwd: fileURLToPath(new URL('../..', import.meta.url)), stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await once(child.stdout, 'data');
    child.kill('SIGKILL');
    await once(child, 'exit');
    for (const { vip } of families) expect(await ask(vip)).toBe('served');
    // No node is passed: the stored one stays.
    const lb = await LoadBalancer.open({ pinPath, netns });
    opened.push(lb);
    expect(lb.attachments().map(({ kind, state }) => `${kind} ${state}`)).toEqual(['tc attached', 'xdp attached']);
    for (const { vip } of families) expect(await ask(vip)).toBe('served');
    expect((await lb.verify()).problems).toEqual([]);
    expect([...lb.connections()].length).toBeGreaterThanOrEqual(4);
    await lb.close({ detach: true });
    for (const { vip } of families) expect(await ask(vip, 300)).toMatch(/^no answer/);
  } finally {
    removePins(pinPath);
  }
});

test('forwarding that is off is a problem with its remedy', async () => {
  const lb = await open();
  await lb.attachTc(towardsClient, { role: 'external' });
  expect(lb.status().problems).toEqual([]);
  const set = (value: number) => lab.run('lb', ['sh', '-ec', `echo ${value} > /proc/sys/net/ipv4/conf/${towardsClient}/forwarding`]);
  await set(0);
  expect(lb.status().problems).toMatchObject([
    { code: 'FORWARDING_OFF', object: towardsClient, remedy: `sysctl -w net/ipv4/conf/${towardsClient}/forwarding=1` },
  ]);
  await set(1);
  await until('it is on', () => lb.status().problems.length === 0);
});
