// How long does setBackends() take from JavaScript, and how long do kube-proxy's tools take for the same change?
import { withBalancer } from '../support/balancer.mjs';
import { kubeProxyTools } from '../support/kube-proxy.mjs';
import { backendAddress, backendPort, backendsOf, services } from '../support/services.mjs';
import { median, quantile } from '../support/statistics.mjs';

export const title = 'setBackends() of one service';

const counts = [1, 100, 1_000, 10_000];
const changes = 2_000;
const toolChanges = 8;

/** Two sets of backends that differ in one. */
const twoSets = (service, size) => {
  const first = backendsOf(service, size);
  return [first, [...first.slice(0, -1), { address: backendAddress(3_000_000), port: backendPort }]];
};

/** Microseconds of each of `n` changes from one set to the other and back. */
function time(lb, name, sets, n) {
  const took = [];
  for (let i = 0; i < n + n / 10; i++) {
    const start = process.hrtime.bigint();
    lb.setBackends(name, sets[(i + 1) % 2]);
    const end = process.hrtime.bigint();
    if (i >= n / 10) took.push(Number(end - start) / 1e3);
  }
  return took;
}

async function ours(figures, desired, label, { index, size, n, pinned, scratch }) {
  const options = pinned ? { pinPath: `${scratch}/bpf/set-backends` } : {};
  const took = await withBalancer(desired, async (lb) => time(lb, desired[index].name, twoSets(index, size), n), options);
  figures[`${label}.us`] = median(took);
  figures[`${label}.p99.us`] = quantile(took, 0.99);
}

export async function run({ scratch, log }) {
  const figures = {};
  const { tools, notes } = kubeProxyTools();
  for (const count of counts) {
    log(`3 backends, random, one of ${count} services`);
    const desired = services(count);
    const index = count >> 1;
    await ours(figures, desired, `random3.${count}`, { index, size: 3, n: changes });
    const [before, after] = twoSets(index, 3).map((backends) => ({ ...desired[index], backends }));
    for (const tool of tools) {
      log(`  ${tool.name}`);
      tool.load(desired);
      const took = [];
      for (let i = 0; i < toolChanges; i++)
        took.push(i % 2 === 0 ? tool.change(desired, before, after) : tool.change(desired, after, before));
      figures[`${tool.name}.${count}.ms`] = median(took);
      tool.load([]);
    }
  }
  log('pinned; Maglev');
  await ours(figures, services(1_000), 'random3.1000.pinned', { index: 500, size: 3, n: changes, pinned: true, scratch });
  for (const size of [10, 100]) {
    const desired = services(10, { backends: size, algorithm: 'maglev' });
    await ours(figures, desired, `maglev${size}`, { index: 5, size, n: changes / 4 });
  }
  return { figures, notes };
}
