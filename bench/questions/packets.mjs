// Packets a second through a node that balances them: client -- node -- backends, three network namespaces for each way to do it.
import { LoadBalancer } from 'ebpf-lb';
import { kubeProxyTools } from '../support/kube-proxy.mjs';
import { buildObject, startProbe } from '../support/probe.mjs';
import { run as runCommand } from '../support/process.mjs';
import { backendAddress, serviceAddress, servicePort, services } from '../support/services.mjs';
import { median, overNeighbours, spread } from '../support/statistics.mjs';

export const title = 'UDP packets a second through a node, 1,000 services';

const count = 1_000;
const flows = 64;
const rounds = 12;
const turnMs = 250;
const service = count >> 1;

const inside = (probe) => `/proc/${probe.pid}/ns/net`;
const ip = (probe, ...words) => runCommand('nsenter', [`--net=${inside(probe)}`, 'ip', ...words]);

/** Client, node and backend of a way; the client sends to `address`. */
async function makeNetwork(address, port) {
  const prefix = ['unshare', '--net'];
  const client = startProbe('sender', { prefix, args: [address, String(port), String(flows)] });
  const node = startProbe('sink', { prefix, args: [buildObject('sink')], pin: false });
  const backend = startProbe('sink', { prefix, args: [buildObject('sink')], pin: false });
  await Promise.all([client.ask('ready'), node.ask('count'), backend.ask('count')]); // so they are in their namespaces
  return { client, node, backend };
}

async function connect({ client, node, backend }) {
  ip(client, 'link', 'add', 'c0', 'type', 'veth', 'peer', 'name', 'front', 'netns', String(node.pid));
  ip(node, 'link', 'add', 'back', 'type', 'veth', 'peer', 'name', 'b0', 'netns', String(backend.pid));
  for (const [probe, device, address] of [
    [client, 'c0', '192.0.2.2/24'],
    [node, 'front', '192.0.2.1/24'],
    [node, 'back', '192.0.3.1/24'],
    [backend, 'b0', '192.0.3.2/24'],
  ]) {
    ip(probe, 'address', 'add', address, 'dev', device);
    ip(probe, 'link', 'set', device, 'up');
  }
  ip(client, 'route', 'add', 'default', 'via', '192.0.2.1');
  ip(node, 'route', 'add', '10.128.0.0/10', 'via', '192.0.3.2');
  ip(backend, 'route', 'add', 'default', 'via', '192.0.3.1');
  runCommand('nsenter', [`--net=${inside(node)}`, 'sysctl', '-qw', 'net.ipv4.ip_forward=1']);
  await backend.ask('attach b0');
}

/** Packets that arrive at the backend in a turn, a second. */
async function perSecond({ client, backend }) {
  const before = await backend.ask('count');
  const start = process.hrtime.bigint();
  await client.ask(`send ${turnMs}`);
  const after = await backend.ask('count');
  return ((after.packets - before.packets) * 1e9) / Number(process.hrtime.bigint() - start);
}

const desired = services(count, { protocol: 'udp' });

async function balanced(network, mode) {
  const lb = await LoadBalancer.open({ netns: inside(network.node), node: { name: 'bench', addresses: ['192.0.3.1'] } });
  await lb.apply(
    desired.map(({ name, address, port, protocol, backends, algorithm }) => ({
      name,
      frontends: [{ kind: 'external', address, port, protocol }],
      backends,
      algorithm,
    })),
  );
  if (mode === 'tc') await lb.attachTc('front', { role: 'external' });
  else await lb.attachXdp('front', { mode: 'native' });
  return lb;
}

export async function run({ log }) {
  const { tools, notes } = kubeProxyTools();
  const ways = [['direct'], ['tc'], ['xdp'], ...tools.map((tool) => [tool.name, tool])];
  const networks = {};
  const balancers = [];
  for (const [name, tool] of ways) {
    log(name);
    const network = await makeNetwork(
      name === 'direct' ? backendAddress(3 * service) : serviceAddress(service),
      name === 'direct' ? 8080 : servicePort,
    );
    await connect(network);
    if (name === 'tc' || name === 'xdp') balancers.push(await balanced(network, name));
    tool?.load(desired, ['nsenter', `--net=${inside(network.node)}`]);
    networks[name] = network;
  }
  const got = Object.fromEntries(ways.map(([name]) => [name, []]));
  log(`${rounds} rounds of ${turnMs} ms each`);
  for (const network of Object.values(networks)) await perSecond(network); // warms up
  for (let round = 0; round < rounds; round++) for (const [name] of ways) got[name].push(await perSecond(networks[name]));
  got.direct.push(await perSecond(networks.direct));
  for (const lb of balancers) await lb.close({ detach: true });
  for (const { client, node, backend } of Object.values(networks)) for (const probe of [client, node, backend]) await probe.end();

  const figures = {};
  for (const [name, values] of Object.entries(got)) {
    if (median(values) === 0) throw new Error(`${name}: nothing arrived`);
    figures[`${name}.perSecond`] = median(values);
    if (name === 'direct') continue;
    const ratios = overNeighbours(values, got.direct);
    figures[`${name}.ratio`] = median(ratios);
    notes.push(`${name}: ${spread(ratios)} times direct`);
  }
  for (const hook of ['tc', 'xdp']) {
    if (!got.nftables) continue;
    figures[`${hook}.overNftables.ratio`] = figures[`${hook}.perSecond`] / figures['nftables.perSecond'];
  }
  notes.push('direct: routed through the node with nothing on it. kube-proxy: DNAT and masquerade of its rules, established flows');
  return { figures, notes };
}
