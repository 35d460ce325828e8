// `npm run demo`: one service for IPv4 and IPv6, TCP and UDP, in a lab of its own, through everything that happens to a service in its life.
// About half a minute; ends by itself and leaves nothing behind.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { BackendSpec, ServiceSpec } from 'ebpf-lb';
import { Lab, type LabServer } from 'ebpf-lb/lab';
import { enterPrivateBpffs } from './demo/private-bpffs.js';
import type { Report, Target } from './demo/traffic.js';
import { type Row, View } from './demo/view.js';

const cluster = { 4: '10.96.0.10', 6: 'fd00:10:96::10' };
const names = ['red', 'green', 'blue'];
const port = 8080;
const actMs = 4000;

if (process.getuid?.() !== 0) {
  console.error('The demo loads programs into the kernel and creates network namespaces: run it as root, `sudo npm run demo`.');
  process.exit(1);
}
const pinPath = `${await enterPrivateBpffs()}/demo`;
const script = (name: string) => fileURLToPath(new URL(`./demo/${name}.js`, import.meta.url));

const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interruption.abort());
process.on('disconnect', () => interruption.abort());

const view = new View();
const pause = (ms: number) => delay(ms, undefined, { signal: interruption.signal });

// ---- the three kinds of processes --------------------------------------------------------------------------------------

/** A namespace for each backend, with an HTTP server and a UDP echo server. */
async function startBackends(lab: Lab): Promise<Map<Row, LabServer[]>> {
  const backends = new Map<Row, LabServer[]>();
  for (const name of names) {
    const servers = await Promise.all([lab.serveHttp(name, port), lab.serveUdp(name, port)]);
    const endpoints = [`${lab.address(name, 4)}:${port}`, `[${lab.address(name, 6)}]:${port}`];
    backends.set({ name, endpoints, weight: 1, state: 'active' }, servers);
  }
  return backends;
}

/** What the library is told: each backend with an address of either family. */
function backendSpecs(lab: Lab): BackendSpec[] {
  return view.rows.flatMap(({ name, weight, state }) =>
    state === 'removed' ? [] : ([4, 6] as const).map((family) => ({ address: lab.address(name, family), port, weight, state })),
  );
}

class Controller {
  readonly #child: ChildProcess;

  constructor(lab: Lab) {
    const service: ServiceSpec = {
      name: 'demo/web',
      frontends: ([4, 6] as const).flatMap((family) => [
        { kind: 'cluster', address: cluster[family], port: 80 },
        { kind: 'cluster', address: cluster[family], port: 80, protocol: 'udp' },
      ]),
      backends: backendSpecs(lab),
    };
    const args = [script('controller'), pinPath, lab.cgroup, JSON.stringify(service)];
    // Its own process group: a Ctrl-C is for the demo, which then tells it.
    this.#child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], detached: true });
    view.controller = `process ${this.#child.pid}`;
  }

  async started(): Promise<{ recovered: boolean; backends: number }> {
    return (await this.#answer()) as { recovered: boolean; backends: number };
  }

  async setBackends(backends: BackendSpec[]): Promise<void> {
    const done = this.#answer();
    this.#child.send(backends);
    await done;
  }

  async kill(): Promise<void> {
    if (this.#isGone()) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
    view.controller = 'none, it was killed';
  }

  /** Takes the balancer away. */
  async close(): Promise<void> {
    if (this.#isGone()) return;
    const gone = once(this.#child, 'exit');
    this.#child.send('close', () => {});
    if ((await Promise.race([gone, delay(5000, 'late', { ref: false })])) === 'late') await this.kill();
  }

  #isGone(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async #answer(): Promise<unknown> {
    const died = once(this.#child, 'exit', { signal: interruption.signal }).then(() => Promise.reject(new Error('the controller ended')));
    died.catch(() => {});
    const [message] = await Promise.race([once(this.#child, 'message', { signal: interruption.signal }), died]);
    return message;
  }
}

class Traffic {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  #stopping = false;

  constructor(lab: Lab) {
    const targets: Target[] = [
      { kind: 'TCP over IPv4', address: cluster[4], port: 80 },
      { kind: 'TCP over IPv6', address: cluster[6], port: 80 },
      { kind: 'UDP over IPv4', address: cluster[4], port: 80 },
      { kind: 'UDP over IPv6', address: cluster[6], port: 80 },
    ];
    const child = lab.spawn('client', [process.execPath, script('traffic'), JSON.stringify(targets)]);
    if (!child.stdout) throw new Error('the traffic process has no output');
    createInterface(child.stdout).on('line', (line) => view.add(JSON.parse(line) as Report));
    child.stderr?.pipe(process.stderr);
    child.once('exit', () => {
      if (!this.#stopping) interruption.abort();
    });
    this.#child = child;
    this.#ended = once(child, 'close');
  }

  /** Lets the connections under way end, so that each is counted. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#child.stdin?.end();
    await this.#ended;
  }
}

// ---- the play ----------------------------------------------------------------------------------------------------------

async function play(lab: Lab): Promise<void> {
  const backends = await startBackends(lab);
  view.rows = [...backends.keys()];
  const row = (name: string) => {
    const found = view.rows.find((each) => each.name === name);
    if (!found) throw new Error(`no backend ${name}`);
    return found;
  };
  let controller = new Controller(lab);
  const set = () => controller.setBackends(backendSpecs(lab));
  let traffic: Traffic | undefined;
  try {
    await controller.started();
    traffic = new Traffic(lab);
    view.begin(`One service, ${cluster[4]} and ${cluster[6]}, port 80, TCP and UDP; three backends of equal weight`);
    await pause(actMs);

    view.begin('Weights: red 4, green 2, blue 1');
    row('red').weight = 4;
    row('green').weight = 2;
    await set();
    await pause(actMs);

    const drained = row(view.nameOf(view.kept.from));
    view.begin(`${drained.name} drains: it gets no new connections, the one that is kept goes on`);
    for (const each of view.rows) each.weight = 1;
    drained.state = 'terminating';
    await set();
    await pause(actMs);

    const leaving = view.rows.find((each) => each !== drained) ?? drained;
    view.begin(`${drained.name} is back; ${leaving.name} is removed, and its servers stop`);
    drained.state = 'active';
    leaving.state = 'removed';
    await set();
    while (view.isAnswering(leaving)) await pause(50);
    await Promise.all((backends.get(leaving) ?? []).map((server) => server.stop()));
    await pause(actMs);

    view.begin('The controlling process is killed (SIGKILL); the kernel goes on without it');
    await controller.kill();
    await pause(actMs);

    controller = new Controller(lab);
    const { recovered, backends: count } = await controller.started();
    view.begin(
      `A new controller has taken over (${recovered ? `it found the service with its ${count} backends` : 'it found nothing'}) and sets weights 1 to 3`,
    );
    const [less, more] = view.rows.filter((each) => each !== leaving);
    if (less && more) [less.weight, more.weight] = [1, 3];
    await set();
    await pause(actMs);
  } finally {
    await traffic?.stop();
    view.end();
    await controller.close();
  }
}

function summary(): string {
  const reasons = [...new Set(view.lost.map(({ kind, why }) => `${kind}: ${why}`))].map((reason) => `\n  ${reason}`);
  const again = view.askedAgain > 0 ? ` (${view.askedAgain} UDP questions asked a second time)` : '';
  return `\n${view.made} connections made, ${view.lost.length} lost${again}; the kept one answered ${view.kept.requests} requests.${reasons.join('')}`;
}

view.say('Setting up: four network namespaces, three backends, one balancer on the cgroup of this demo only.');
const lab = await Lab.create({ namespaces: ['client', ...names] });
try {
  await play(lab);
} catch (error) {
  if (!interruption.signal.aborted) throw error;
  view.say('\nInterrupted.');
  process.exitCode = 130;
} finally {
  await lab.close();
  view.say(summary());
  view.say('The lab, its cgroup, its processes and all pins are removed.');
  if (view.lost.length > 0) process.exitCode ??= 1;
  if (process.connected) process.disconnect();
}
