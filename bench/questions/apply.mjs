// How long does apply() take for 10,000 services with 3 backends each, from empty, with one change and with none?
import { LoadBalancer } from 'ebpf-lb';
import { kubeProxyTools } from '../support/kube-proxy.mjs';
import { backendAddress, backendPort, services } from '../support/services.mjs';
import { median } from '../support/statistics.mjs';

export const title = 'apply() of many services with 3 backends each';

const counts = [100, 1_000, 10_000];
const trials = 7;
const changesPerTrial = 5;

/** The same, all objects new, service `i` with another last backend. */
function changed(desired, i, salt) {
  const copy = structuredClone(desired);
  copy[i].backends[2] = { address: backendAddress(3_000_000 + salt), port: backendPort };
  return copy;
}

async function timed(work) {
  const start = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - start) / 1e6;
}

async function trial(desired, options, took) {
  const lb = await LoadBalancer.open(options);
  try {
    took.empty.push(await timed(() => lb.apply(desired)));
    await lb.settled();
    for (let i = 0; i < changesPerTrial; i++) {
      const next = changed(desired, (i * 1_237) % desired.length, i);
      took.change.push(await timed(() => lb.apply(next)));
      const same = structuredClone(next);
      took.same.push(await timed(() => lb.apply(same)));
      await lb.settled();
    }
  } finally {
    await lb.close({ detach: true });
  }
}

export async function run({ scratch, log }) {
  const figures = {};
  const { tools, notes } = kubeProxyTools();
  for (const count of counts) {
    const desired = services(count);
    for (const pinned of [false, true]) {
      log(`${count} services${pinned ? ', pinned' : ''}`);
      const took = { empty: [], change: [], same: [] };
      for (let i = 0; i < trials; i++) {
        await trial(desired, pinned ? { pinPath: `${scratch}/bpf/apply-${count}-${i}` } : {}, took);
      }
      const suffix = pinned ? `${count}.pinned` : `${count}`;
      for (const what of ['empty', 'change', 'same']) figures[`${what}.${suffix}.ms`] = median(took[what]);
    }
    for (const tool of tools) {
      log(`  ${tool.name}`);
      figures[`${tool.name}.empty.${count}.ms`] = tool.load(desired);
      const after = changed(desired, 0, 0)[0];
      figures[`${tool.name}.change.${count}.ms`] = tool.change(desired, desired[0], after);
      tool.load([]);
    }
  }
  return { figures, notes };
}
