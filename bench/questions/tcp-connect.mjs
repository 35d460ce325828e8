// What does connect() of a new TCP socket cost through the balancer, against a direct one, with getpeername() exact?
import { whileAttached, withBalancer } from '../support/balancer.mjs';
import { keepMedians, startProbe, target } from '../support/probe.mjs';
import { backendAddress, backendPort, serviceAddress, servicePort, services } from '../support/services.mjs';
import { median, overNeighbours, spread } from '../support/statistics.mjs';

export const title = 'TCP connect() of new sockets through the balancer against direct ones';
// direct: while nothing is attached anywhere on the machine, measured between the rounds. beside: a direct connection of a process outside of the
// balanced cgroup while the programs are attached.

const count = 10_000;
const rounds = 24;
/** Blocks, batches, operations: 480 connections a target and round. */
const size = '6 8 10';
const verified = 20_000;

function start(cgroup) {
  const probe = startProbe('connect');
  const backend = backendAddress(0);
  if (cgroup) probe.tell(`cgroup ${cgroup}`);
  probe.tell(
    `listen ${cgroup ? backendPort : backendPort + 1}`,
    target('direct', backend, backendPort),
    target('beside', backend, backendPort + 1),
    target('none', backend, backendPort),
    target('scattered', backend, cgroup ? backendPort : backendPort + 1, { span: 3 * count }),
    target('hot', serviceAddress(count >> 1), servicePort),
    target('random', serviceAddress(0), servicePort, { span: count }),
  );
  return probe;
}

/** Adds to `times` those of all rounds of a mode (tcp: connect() alone; cycle: socket(), connect(), close()). */
async function measure(lb, cgroup, [inside, outside], mode, times) {
  const keep = (answer) => keepMedians(times, answer);
  await inside.ask(`${mode} ${size} direct`); // warms up
  for (let round = 0; round < rounds; round++) {
    keep(await inside.ask(`${mode} ${size} direct`));
    await whileAttached(lb, cgroup, async () => {
      keep(await inside.ask(`${mode} ${size} hot random none`));
      keep(await outside.ask(`${mode} ${size} beside scattered`));
    });
  }
  keep(await inside.ask(`${mode} ${size} direct`));
}

export async function run({ cgroup, log }) {
  const figures = { checked: 0, wrong: 0 };
  const notes = [];
  await withBalancer(services(count, { protocol: 'tcp' }), async (lb) => {
    const probes = [start(cgroup), start()];
    for (const [mode, prefix] of [
      ['tcp', ''],
      ['cycle', 'cycle.'],
    ]) {
      log(mode === 'tcp' ? 'connect() alone' : 'socket(), connect(), close()');
      const times = {};
      await measure(lb, cgroup, probes, mode, times);
      figures[`${prefix}direct.ns`] = median(times.direct);
      for (const name of ['hot', 'random', 'scattered', 'none', 'beside']) {
        const ratios = overNeighbours(times[name], times.direct);
        figures[`${prefix}${name}.ns`] = median(times[name]);
        figures[`${prefix}${name}.ratio`] = median(ratios);
        notes.push(`${prefix}${name}: ${spread(ratios)} times direct`);
      }
    }
    log('getpeername()');
    await whileAttached(lb, cgroup, async () => {
      for (const name of ['hot', 'random']) {
        const { checked, wrong } = await probes[0].ask(`verify ${name} ${verified}`);
        figures.checked += checked;
        figures.wrong += wrong;
      }
    });
    for (const probe of probes) await probe.end();
  });
  return { figures, notes };
}
