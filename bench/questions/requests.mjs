// TCP requests a second, a new connection for each, 1,000 services: direct, through the balancer, through kube-proxy's rules.
import { whileAttached, withBalancer } from '../support/balancer.mjs';
import { kubeProxyTools } from '../support/kube-proxy.mjs';
import { startProbe, target } from '../support/probe.mjs';
import { run as runCommand } from '../support/process.mjs';
import { backendAddress, backendPort, loopbackCommands, serviceAddress, servicePort, services } from '../support/services.mjs';
import { median, overNeighbours, spread } from '../support/statistics.mjs';

export const title = 'TCP requests a second, a new connection for each';

const count = 1_000;
const rounds = 40;
const turnMs = 120;

/** Client and server in a network namespace of their own, so that conntrack works for these rules alone. */
function startWithRules(tool, desired) {
  const probe = startProbe('requests', { prefix: ['unshare', '--net'] });
  const inside = ['nsenter', `--net=/proc/${probe.pid}/ns/net`];
  for (const [command, ...args] of loopbackCommands) runCommand(inside[0], [inside[1], command, ...args]);
  tool.load(desired, inside);
  probe.tell(`serve ${backendPort}`, target('service', serviceAddress(0), servicePort, { span: count }));
  return probe;
}

async function perSecond(probe, name) {
  const { requests, ns } = await probe.ask(`run ${name} ${turnMs}`);
  return (requests * 1e9) / ns;
}

export async function run({ cgroup, log }) {
  const desired = services(count, { protocol: 'tcp' });
  const { tools, notes } = kubeProxyTools();
  const got = { direct: [], 'ebpf-lb': [] };
  await withBalancer(desired, async (lb) => {
    const probe = startProbe('requests');
    probe.tell(
      `serve ${backendPort}`,
      `cgroup ${cgroup}`, // the client alone
      target('direct', backendAddress(0), backendPort, { span: count }),
      target('service', serviceAddress(0), servicePort, { span: count }),
    );
    const others = [];
    for (const tool of tools) {
      log(`rules of ${tool.name}`);
      others.push([tool.name, startWithRules(tool, desired)]);
      got[tool.name] = [];
    }
    log(`${rounds} rounds of ${turnMs} ms each`);
    for (const each of [probe, ...others.map(([, other]) => other)]) await perSecond(each, each === probe ? 'direct' : 'service'); // warms up
    for (let round = 0; round < rounds; round++) {
      got.direct.push(await perSecond(probe, 'direct'));
      got['ebpf-lb'].push(await whileAttached(lb, cgroup, () => perSecond(probe, 'service')));
      for (const [name, other] of others) got[name].push(await perSecond(other, 'service'));
    }
    got.direct.push(await perSecond(probe, 'direct'));
    await probe.end();
    for (const [, other] of others) await other.end();
  });
  const figures = {};
  for (const [name, values] of Object.entries(got)) {
    figures[`${name}.perSecond`] = median(values);
    if (name === 'direct') continue;
    const ratios = overNeighbours(values, got.direct);
    figures[`${name}.ratio`] = median(ratios);
    notes.push(`${name}: ${spread(ratios)} times direct`);
  }
  return { figures, notes };
}
