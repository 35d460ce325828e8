// What is left when something ends in the middle, or outlives what it belongs to.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { LoadBalancer, LoadBalancerError } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { full } from '../support/fixture.js';
import { KernelObjects, pinDirectory, removePins } from '../support/pins.js';
import { run, runUntil } from '../support/program.js';

let lab: Lab;
let pinPath: string;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
});
afterAll(() => lab?.close());
beforeEach(() => {
  pinPath = pinDirectory();
});
afterEach(() => removePins(pinPath));

const shell = (script: string) => lab.run('client', ['sh', '-ec', `PATH=$PATH:/usr/sbin; ${script}`]);
const pins = () => (existsSync(pinPath) ? readdirSync(pinPath) : []);
const links = () => pins().filter((name) => name.startsWith('link_'));
const canaries = () => readdirSync(lab.cgroup).filter((name) => name.startsWith('ebpf-lb-canary-'));

test('[1.4] a detach that is killed anywhere is ended by the next open, and the release hook goes last', { timeout: 300_000 }, async () => {
  const program = `const lb = await LoadBalancer.open({ pinPath: '${pinPath}' }); const a = await lb.attachCgroup('${lab.cgroup}');
    process.stdout.write('detaching '); await a.detach(); process.stdout.write('end');`;
  let half = 0;
  for (let write = 1, text = ''; !text.includes('end'); write += full ? 1 : 3) {
    text = await runUntil(write, program);
    const left = links();
    if (text === 'detaching ' && left.length > 0 && left.length < 11) {
      half++;
      expect(left).toContain('link_1_sock_release');
    }
    const lb = await LoadBalancer.open({ pinPath });
    const { length } = lb.attachments();
    expect(links()).toHaveLength(length * 11);
    expect(await lb.verify()).toMatchObject({ problems: [] });
    await lb.close({ detach: true });
    removePins(pinPath);
  }
  expect(half).toBeGreaterThan(3);
});

test('[1.4] a close with detach that is killed anywhere is ended by the next open, or has not begun', { timeout: 300_000 }, async () => {
  const program = `const lb = await LoadBalancer.open({ pinPath: '${pinPath}' }); lb.addService({ name: 's', address: '10.96.0.1', port: 80 });
    await lb.attachCgroup('${lab.cgroup}'); process.stdout.write('closing '); await lb.close({ detach: true }); process.stdout.write('end');`;
  const objects = new KernelObjects();
  let half = 0;
  for (let write = 10, text = ''; !text.includes('end'); write += full ? 1 : 4) {
    text = await runUntil(write, program);
    const left = pins();
    if (left.length > 0) objects.note(pinPath);
    if (left.length > 0 && text === 'closing ') {
      half++;
      await expect(LoadBalancer.open({ pinPath, readonly: true })).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
    }
    const lb = await LoadBalancer.open({ pinPath });
    if (text !== '') {
      expect(lb.services()).toEqual([]);
      expect(lb.attachments()).toEqual([]);
      expect(links()).toEqual([]);
    }
    await lb.close({ detach: true });
    expect(pins()).toEqual([]);
  }
  expect(half).toBeGreaterThan(3);
  await expect.poll(() => objects.left(), { timeout: 30_000 }).toEqual([]);
});

test('an attachment that cannot be taken over is lost with the reason, and the rest is open', async () => {
  const other = await LoadBalancer.open({ pinPath: `${pinPath}-other` });
  await other.attachCgroup(lab.cgroup);
  const cgroup = `${lab.cgroup}/taken`;
  const whole = `${lab.cgroup}/whole`;
  mkdirSync(cgroup);
  mkdirSync(whole);
  let lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 's', address: '10.96.0.1', port: 80 });
  await lb.attachCgroup(cgroup);
  await lb.attachCgroup(whole);
  await lb.close();
  // Its links go, and another program takes one of the hooks alone.
  for (const name of links().filter((link) => link.startsWith('link_1_'))) rmSync(`${pinPath}/${name}`);
  const { prog_id: program } = JSON.parse(await shell(`bpftool -j link show pinned ${pinPath}-other/link_1_connect4`)) as { prog_id: number };
  await expect.poll(() => shell(`bpftool cgroup attach ${cgroup} connect4 id ${program}`).then(() => 'attached', String), { timeout: 10_000 }).toBe('attached');
  try {
    lb = await LoadBalancer.open({ pinPath });
    expect(lb.services().map(({ name }) => name)).toEqual(['s']);
    expect(lb.attachments()).toMatchObject([
      { target: cgroup, state: 'lost' },
      { target: whole, state: 'attached' },
    ]);
    const problem = lb.status().problems.find(({ code }) => code === 'ERR_HOOK_BUSY');
    expect(problem).toMatchObject({ object: cgroup, message: expect.stringMatching(/lb_connect4.*bpftool cgroup/), remedy: expect.stringMatching(/attachCgroup/) });
    expect((await lb.verify()).ok).toBe(false);
  } finally {
    await shell(`bpftool cgroup detach ${cgroup} connect4 id ${program}`);
  }
  expect(await lb.attachCgroup(cgroup)).toMatchObject({ state: 'attached' });
  expect(await lb.verify()).toMatchObject({ ok: true, problems: [] });
  await lb.close({ detach: true });
  await other.close({ detach: true });
  removePins(`${pinPath}-other`);
  rmdirSync(cgroup);
  rmdirSync(whole);
});

/** A process that does what a line of its input says, and answers with a line. */
class Child {
  readonly process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(program: string) {
    this.process = run(`import { createInterface } from 'node:readline'; ${program}`);
    this.#lines = createInterface({ input: this.process.stdout! })[Symbol.asyncIterator]();
  }

  async next(): Promise<string> {
    return ((await this.#lines.next()).value as string | undefined) ?? 'ended';
  }

  say(line: string): Promise<string> {
    this.process.stdin?.write(`${line}\n`);
    return this.next();
  }

  /** How many descriptors it may have; undefined: as many as at first. */
  limit(descriptors?: number): void {
    execFileSync('prlimit', ['--pid', String(this.process.pid), `--nofile=${descriptors ?? 1024}:`]);
  }

  get descriptors(): number {
    return readdirSync(`/proc/${this.process.pid}/fd`).length;
  }

  async end(): Promise<void> {
    this.process.stdin?.end();
    if (this.process.exitCode === null) await once(this.process, 'exit');
  }
}

test('an open that fails anywhere leaves no pins', async () => {
  const child = new Child(`
    let lb = await LoadBalancer.open(); // what a process finds out once
    await lb.close();
    console.log('ready');
    for await (const line of createInterface({ input: process.stdin }))
      console.log(await LoadBalancer.open({ pinPath: '${pinPath}' }).then((opened) => opened.close({ detach: true }).then(() => 'opened'), (error) => error.message));`);
  expect(await child.next()).toBe('ready');
  const failures = new Set<string>();
  let answer = '';
  for (let more = 1; answer !== 'opened'; more++) {
    child.limit(child.descriptors + more);
    answer = await child.say('open');
    if (answer !== 'opened') failures.add(answer);
    expect(answer).toMatch(/EMFILE|EINVAL|opened/); // libbpf makes one of the other
    expect(pins(), answer).toEqual([]);
  }
  // Not only before there was a pin.
  expect([...failures].some((message) => /sweep|grace|destroy/.test(message))).toBe(true);
  await child.end();
});

const failing = (listen: string) => `
  const lb = await LoadBalancer.open();
  const backends = [{ address: '10.1.0.1', port: 80 }];
  lb.addService({ name: 's', address: '10.96.0.1', port: 80, backends });
  await lb.settled();
  lb.status();
  ${listen}
  console.log('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === 'status') console.log(JSON.stringify(lb.status().problems));
    else lb.setBackends('s', line === 'none' ? [] : backends);
  }
  await lb.close();`;

test("what fails in the background reaches 'error'", async () => {
  const child = new Child(failing(`lb.on('error', (error) => console.log(JSON.stringify({ code: error.code, errno: error.errnoName, message: error.message })));`));
  expect(await child.next()).toBe('ready');
  child.limit(3);
  const error = JSON.parse(await child.say('none'));
  expect(error).toMatchObject({ code: 'ERR_KERNEL', errno: 'EMFILE', message: expect.stringMatching(/^sweep sockets: .*must connect again/) });
  child.limit();
  child.process.stdin?.write('some\n');
  await expect.poll(() => child.say('status')).toBe('[]');
  await child.end();
});

test('what fails in the background is in status() when nobody listens, with one warning', async () => {
  const child = new Child(failing(`process.on('warning', ({ name, code }) => console.log(name + ' ' + code));`));
  expect(await child.next()).toBe('ready');
  child.limit(3);
  expect(await child.say('none')).toBe('LoadBalancerWarning ERR_KERNEL');
  const problems = JSON.parse(await child.say('status'));
  expect(problems).toMatchObject([{ code: 'ERR_KERNEL', object: 'sweep', message: expect.stringMatching(/EMFILE|Too many open files/) }]);
  child.limit();
  await child.end();
});

test('[1.4] an observer whose writer closed with detach says so, and finds the next one when it opens again', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  const kept = lb.addService({ name: 's', address: '10.96.0.1', port: 80 });
  const observer = await LoadBalancer.open({ pinPath, readonly: true });
  const seen = observer.service('s');
  expect(seen?.spec).toEqual(kept.spec);
  await lb.close({ detach: true });
  const next = await LoadBalancer.open({ pinPath });
  const calls: (() => unknown)[] = [
    () => observer.services(),
    () => observer.stats(),
    () => observer.status(),
    () => observer.attachments(),
    () => observer.affinities(),
    () => observer.verify(),
    () => observer.explain({ protocol: 'tcp', from: 'pod', source: { address: '10.0.0.1' }, destination: { address: '10.96.0.1', port: 80 } }),
  ];
  for (const call of calls) {
    const error = await Promise.resolve().then(call).then(String, (reason: unknown) => reason);
    expect(error, String(call)).toBeInstanceOf(LoadBalancerError);
    expect(error, String(call)).toMatchObject({ code: 'ERR_CLOSED', message: expect.stringMatching(/detach.*open again/) });
  }
  expect(seen?.name).toBe('s');
  await observer.close();
  const again = await LoadBalancer.open({ pinPath, readonly: true });
  expect(again.services()).toEqual([]);
  await again.close();
  await next.close({ detach: true });
});

test('cgroups of canaries whose process was killed are removed by the next verification and the next open', async () => {
  const child = spawn('true');
  await once(child, 'exit');
  const dead = `${lab.cgroup}/ebpf-lb-canary-${child.pid}`;
  const alive = `ebpf-lb-canary-${process.ppid}`;
  mkdirSync(`${lab.cgroup}/${alive}`);
  const lb = await LoadBalancer.open({ pinPath });
  await lb.attachCgroup(lab.cgroup);
  mkdirSync(dead);
  expect(await lb.verify()).toMatchObject({ ok: true });
  expect(canaries()).toEqual([alive]);
  await lb.close();
  mkdirSync(dead);
  const next = await LoadBalancer.open({ pinPath });
  expect(canaries()).toEqual([alive]);
  await next.close({ detach: true });
  rmdirSync(`${lab.cgroup}/${alive}`);
});

test('every attachment has its canaries, and the one that fails is named', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  const inner = `${lab.cgroup}/inner`;
  mkdirSync(inner);
  await lb.attachCgroup(inner);
  await lb.attachCgroup(lab.cgroup, { namespaces: [lab.netns('client')] });
  const good = await lb.verify();
  expect(good.ok).toBe(true);
  expect(good.canaries.map(({ hook, target, ok }) => [hook, target, ok])).toEqual(
    [inner, lab.cgroup].flatMap((target) => ['connect4', 'connect6'].map((hook) => [hook, target, true])),
  );
  // The second one serves its namespace no more.
  const [row] = JSON.parse(await shell(`bpftool -j map dump pinned ${pinPath}/netns`)) as { key: string[] }[];
  await shell(`bpftool map delete pinned ${pinPath}/netns key hex ${row!.key.map((byte) => byte.slice(2)).join(' ')}`);
  const bad = await lb.verify();
  expect(bad.ok).toBe(false);
  expect(bad.canaries.filter(({ ok }) => !ok).map(({ target }) => target)).toEqual([lab.cgroup, lab.cgroup]);
  expect(bad.problems.map(({ object }) => object)).toEqual([`${lab.cgroup} connect4`, `${lab.cgroup} connect6`]);
  await lb.close({ detach: true });
  rmdirSync(inner);
});
