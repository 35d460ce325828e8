// Does a lookup ever see half of a commit? Hundreds of millions of lookups by the data path's own code beside commits without pause: every one must
// find its service, with a backend of it, and none may see an older commit than one before it, of whatever service.
import os from 'node:os';
import { withBalancer } from '../support/balancer.mjs';
import { buildObject, startProbe } from '../support/probe.mjs';
import { backendPort, serviceAddress, servicePort } from '../support/services.mjs';

export const title = 'Lookups beside commits without pause';

const lookups = Number(process.env.EBPF_LB_BENCH_LOOKUPS ?? 300_000_000);
const quietLookups = 5_000_000;
const mostSeconds = 150;
const serviceBits = 7;
const count = 2 ** serviceBits;
const fillers = 400;
const commitMask = 2 ** (22 - serviceBits) - 1;

/** What lookups.bpf.c reads: which commit, service and backend, in 24 bits. */
function backends(commit, service) {
  const bits = [1, 2, 3].map((i) => (((commit & commitMask) << (2 + serviceBits)) | (service << 2) | i) >>> 0);
  return [
    ...bits.map((b) => ({ address: `11.${(b >>> 16) & 255}.${(b >>> 8) & 255}.${b & 255}`, port: backendPort })),
    ...bits.map((b) => ({ address: `fd80::${(b >>> 16).toString(16)}:${(b & 0xffff).toString(16)}`, port: backendPort })),
  ];
}

const frontends = (i, port) => [4, 6].map((family) => ({ kind: 'cluster', address: serviceAddress(i, family), port, protocol: 'tcp' }));

const desired = (commit) =>
  Array.from({ length: count }, (_, i) => ({ name: `s${i}`, frontends: frontends(i, servicePort), backends: backends(commit, i) }));

/** Others, so that keys are born and deleted all the time: their own, of two sets in turn. */
const others = (turn) =>
  Array.from({ length: fillers }, (_, i) => ({
    name: `other-${turn % 2}-${i}`,
    frontends: frontends(i, servicePort + 1 + (turn % 2)),
    backends: [{ address: `12.0.${i >> 8}.${i & 255}`, port: backendPort }],
  }));

/** Commits until `ended`; returns how many, and how many keys came and went. */
async function commitUntil(ended, lb) {
  let [commits, keys, over] = [0, 0, false];
  ended.finally(() => (over = true)).catch(() => {});
  while (!over) {
    commits++;
    await lb.apply(desired(commits));
    if (commits % 8 !== 0) continue;
    const { added, removed } = await lb.apply(others(commits / 8), { owner: 'others' });
    keys += 2 * (added + removed);
  }
  return { commits, keys };
}

export async function run({ scratch, log }) {
  const pinPath = `${scratch}/bpf/lookups`;
  const threads = Math.max(1, Math.min(8, os.cpus().length - 1));
  return withBalancer(
    desired(0),
    async (lb) => {
      const probe = startProbe('lookups', { pin: false });
      probe.tell(`load ${buildObject('lookups')} ${pinPath} ${serviceBits}`);
      const quiet = await probe.ask(`run ${quietLookups} ${threads} ${mostSeconds}`);
      log(`${lookups.toLocaleString('en')} lookups on ${threads} CPUs beside commits`);
      const asked = probe.ask(`run ${lookups} ${threads} ${mostSeconds}`);
      const [busy, { commits, keys }] = await Promise.all([asked, commitUntil(asked, lb)]);
      await probe.end();
      const { missed, foreign, backwards } = busy;
      const wrong = missed + foreign + backwards + quiet.missed + quiet.foreign + quiet.backwards;
      const figures = { lookups: busy.lookups, commits, 'keys.bornAndDeleted': keys, missed, foreign, backwards, wrong };
      return {
        figures: { ...figures, 'quiet.ns': quiet.ns, 'besideCommits.ns': busy.ns, 'besideCommits.ratio': busy.ns / quiet.ns },
        notes: [],
      };
    },
    { pinPath },
  );
}
