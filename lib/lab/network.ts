import { closeSync, openSync } from 'node:fs';
import { launch } from './launch.js';
import { type CablePlan, type DevicePlan, type LabPlan, switchNamespace } from './plan.js';

/** Namespaces exist as long as somebody holds them. Here this process does, with descriptors: nothing is mounted, nothing can be left behind. */
export interface Network {
  /** Paths by which any process can open the namespaces while this one lives. */
  paths: Record<string, string>;
  warnings: string[];
  release(): void;
}

/** Creates namespaces and devices. `signal`: stop on the way; the processes at work are in the cgroup. */
export async function createNetwork(plan: LabPlan, cgroup: string, signal: AbortSignal): Promise<Network> {
  const descriptors: number[] = [];
  const network: Network = {
    paths: {},
    warnings: [],
    release() {
      for (const fd of descriptors.splice(0)) closeSync(fd);
    },
  };
  const shells = new Map(plan.namespaces.map((name) => [name, new NamespaceShell(cgroup, name)]));
  const killShells = () => {
    for (const shell of shells.values()) shell.kill();
  };
  signal.addEventListener('abort', killShells, { once: true });
  const inEach = (script: (name: string) => string) => Promise.all(Array.from(shells, ([name, shell]) => shell.run(script(name))));
  try {
    signal.throwIfAborted();
    await inEach((name) => (name === switchNamespace ? prepareSwitch : prepareNamespace(plan.forwarding)));
    for (const [name, shell] of shells) {
      const fd = openSync(`/proc/${shell.pid}/ns/net`, 'r');
      descriptors.push(fd);
      network.paths[name] = `/proc/${process.pid}/fd/${fd}`;
    }
    await inEach((name) =>
      ipBatch(plan.cables.flatMap((cable, i) => (cable.ends[1].namespace === name ? [addCable(cable, i, network.paths)] : []))),
    );
    await inEach((name) => ipBatch(devicesOf(plan, name).flatMap(setUpDevice)) + suitXdp(devicesOf(plan, name)));
    await inEach((name) =>
      name === switchNamespace ? awaitState('bridge_slave', ' state forwarding ') : awaitState('veth', ' state UP '),
    );
    if ((await Promise.all([...shells.values()].map((shell) => shell.end()))).some((output) => output.includes(noEthtool))) {
      network.warnings.push(
        'ethtool is missing (Debian: ethtool), so devices of the lab send packets without checksums, which XDP programs then forward so, and lose what XDP programs redirect',
      );
    }
    return network;
  } catch (error) {
    killShells();
    network.release();
    throw error;
  }
}

/** A shell in a new network namespace that runs scripts one after the other. The namespace ends with it unless somebody has opened it. */
class NamespaceShell {
  readonly #shell;
  readonly #ended: Promise<void>;
  #output = '';
  #errors = '';
  #count = 0;
  #onOutput: () => void = () => {};

  constructor(cgroup: string, name: string) {
    this.#shell = launch({ cgroup }, ['unshare', '--net', 'sh', '-e'], { stdio: 'pipe' });
    this.#ended = new Promise((resolve, reject) => {
      this.#shell.once('error', reject);
      this.#shell.once('close', (code, signal) => {
        if (code === 0) resolve();
        else
          reject(new Error(`${name || 'the switch'} could not be set up: ${this.#errors.trim() || (signal ?? `status ${String(code)}`)}`));
      });
    });
    this.#ended.catch(() => {}); // reported by run() and end()
    this.#shell.stdin?.on('error', () => {}); // it ended: seen in #ended
    this.#shell.stdout?.on('data', (data: Buffer) => {
      this.#output += data.toString();
      this.#onOutput();
    });
    this.#shell.stderr?.on('data', (data: Buffer) => {
      this.#errors += data.toString();
    });
  }

  get pid(): number {
    return this.#shell.pid ?? 0;
  }

  async run(script: string): Promise<void> {
    const done = `done ${this.#count++}\n`;
    const finished = new Promise<void>((resolve) => {
      this.#onOutput = () => {
        if (this.#output.endsWith(done)) resolve();
      };
    });
    this.#shell.stdin?.write(`${script}\necho ${done}`);
    await Promise.race([finished, this.#ended]);
  }

  /** Resolves with everything that was printed. */
  async end(): Promise<string> {
    this.#shell.stdin?.end();
    await this.#ended;
    return this.#output;
  }

  kill(): void {
    this.#shell.kill('SIGKILL');
  }
}

// The host's settings (Docker's forwarding, systemd's reverse path filter) are inherited, so everything that matters is set.
function prepareNamespace(forwarding: boolean): string {
  const forward = forwarding ? 1 : 0;
  return `
set_net() { echo "$1" > "/proc/sys/net/$2"; }
for i in all default; do
  set_net 0 ipv6/conf/$i/disable_ipv6
  set_net 0 ipv6/conf/$i/accept_dad
  set_net 0 ipv6/conf/$i/accept_ra
  set_net ${forward} ipv6/conf/$i/forwarding
  set_net 0 ipv4/conf/$i/rp_filter
done
set_net ${forward} ipv4/ip_forward
ip link set lo up`;
}

// The switch has no addresses. Packets cross it untouched by whatever the host's bridges are told to do with them.
const prepareSwitch = `
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$f" ] || echo 0 > "$f"; done
ip link add switch type bridge forward_delay 0 mcast_snooping 0
ip link set switch up`;

/**
 * Made from the second end's namespace. The indices of the two ends must differ: where they happen to be equal the kernel takes the device for
 * one without a peer (linkwatch_urgent_event in net/core/link_watch.c) and may bring the link up only a second later.
 */
function addCable({ ends: [far, near], mtu }: CablePlan, number: number, paths: Record<string, string>): string {
  const index = 1000 + number;
  return `link add ${near.name} index ${index} mtu ${mtu} type veth peer name ${far.name} mtu ${mtu} netns ${paths[far.namespace]}`;
}

function devicesOf(plan: LabPlan, namespace: string): DevicePlan[] {
  return plan.cables.flatMap((cable) => cable.ends).filter((device) => device.namespace === namespace);
}

function setUpDevice(device: DevicePlan): string[] {
  return [
    ...(device.namespace === switchNamespace ? [`link set ${device.name} master switch`] : []),
    ...device.addresses.map((address) => `addr add ${address} dev ${device.name}${address.includes(':') ? ' nodad' : ''}`),
    `link set ${device.name} up`,
  ];
}

function ipBatch(lines: string[]): string {
  return lines.length === 0 ? '' : `ip -batch - <<'END'\n${lines.join('\n')}\nEND\n`;
}

const noEthtool = 'no ethtool';

/**
 * XDP programs see packets before the kernel would have completed their checksums, and what they redirect to a veth device arrives only where
 * GRO makes the other end receive in NAPI (veth_xdp_xmit in drivers/net/veth.c). Before 5.13, and for XDP_TX still (veth_xdp_flush), the other
 * end needs an XDP program, which is for the user to attach.
 */
function suitXdp(devices: DevicePlan[]): string {
  if (devices.length === 0) return '';
  const commands = devices.map((device) => `ethtool -K ${device.name} tx off gro on > /dev/null`).join('\n  ');
  return `if command -v ethtool > /dev/null; then\n  ${commands}\nelse echo ${noEthtool}; fi`;
}

/** The kernel brings links up a moment after it was told to. */
function awaitState(type: string, state: string): string {
  return `
tries=0
while ip -d -o link show type ${type} | grep -qv '${state}'; do
  tries=$((tries + 1))
  if [ $tries -gt 2000 ]; then echo 'the links did not come up within 20 seconds' >&2; exit 1; fi
  sleep 0.01
done`;
}
