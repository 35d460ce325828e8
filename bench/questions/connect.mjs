// What does connect() of a UDP socket cost through the balancer, against a direct one, and does it grow with the number of services?
import { whileAttached, withBalancer } from '../support/balancer.mjs';
import { keepMedians, startProbe, target } from '../support/probe.mjs';
import { backendAddress, backendPort, serviceAddress, servicePort, services } from '../support/services.mjs';
import { median, overNeighbours, spread } from '../support/statistics.mjs';

export const title = 'UDP connect() through the balancer against a direct one';

// direct: a socket outside of the balanced cgroup, while the programs are attached. bare: while nothing is attached anywhere on the machine, when
// the kernel skips its hooks for every socket; that is measured between the rounds.

const counts = [1, 100, 1_000, 10_000, 100_000];
const rounds = 16;
/** Blocks of a round, counted batches of a block, operations of a batch: 25 ms a target. */
const size = '8 96 32';
const [socket, untouched, outside] = [0, 1, 7];

function start(cgroup, family, count) {
  const probe = startProbe('connect');
  const at = (name, address, port, options) => target(name, address, port, { socket, ...options });
  const backend = backendAddress(0, family);
  probe.tell(
    `open ${outside} ${family}`, // still outside of the cgroup
    `cgroup ${cgroup}`,
    `open ${socket} ${family}`,
    `open ${untouched} ${family}`,
    at('bare', backend, backendPort),
    at('direct', backend, backendPort, { socket: outside }),
    // The middle one, not the first that was inserted.
    at('hot', serviceAddress(count >> 1, family), servicePort),
    at('random', serviceAddress(0, family), servicePort, { span: count }),
    at('scattered', backend, backendPort, { socket: outside, span: count * 3 }),
    at('none', backend, backendPort),
    at('untouched', backend, backendPort, { socket: untouched }),
  );
  return probe;
}

/** Median times of each target in each round, in ns; one more of the bare ones, which are measured around the others. */
async function measure(cgroup, count, family) {
  const times = {};
  const keep = (answer) => keepMedians(times, answer);
  await withBalancer(services(count, { protocol: 'udp', family }), async (lb) => {
    const probe = start(cgroup, family, count);
    await probe.ask(`udp ${size} bare`); // warms up
    for (let round = 0; round < rounds; round++) {
      keep(await probe.ask(`udp ${size} bare`));
      await whileAttached(lb, cgroup, async () => keep(await probe.ask(`udp ${size} direct hot random scattered none untouched`)));
    }
    keep(await probe.ask(`udp ${size} bare`));
    await probe.end();
  });
  return times;
}

export async function run({ cgroup, log }) {
  const figures = {};
  const notes = [];
  const hot = [];
  for (const [count, family] of [...counts.map((count) => [count, 4]), [10_000, 6]]) {
    log(`${count} IPv${family} services`);
    const times = await measure(cgroup, count, family);
    const suffix = family === 4 ? `${count}` : `${count}.ipv6`;
    figures[`bare.${suffix}.ns`] = median(times.bare);
    figures[`direct.${suffix}.ns`] = median(times.direct);
    figures[`direct.${suffix}.overBare.ratio`] = median(overNeighbours(times.direct, times.bare));
    for (const name of ['hot', 'random', 'scattered', 'none', 'untouched']) {
      const ratios = times[name].map((value, round) => value / times.direct[round]);
      figures[`${name}.${suffix}.ns`] = median(times[name]);
      figures[`${name}.${suffix}.ratio`] = median(ratios);
      if (family === 4 && name === 'hot') hot.push(median(ratios));
      notes.push(`${name}.${suffix}: ${spread(ratios)} times direct`);
    }
    figures[`hot.${suffix}.overBare.ratio`] = median(overNeighbours(times.hot, times.bare));
  }
  figures['hot.flat.ratio'] = Math.max(...hot) / Math.min(...hot);
  return { figures, notes };
}
