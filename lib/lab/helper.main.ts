// The helper process of a lab: creates it, holds its namespaces, and removes everything when it is told to or when the owner ends,
// however the owner ends: then the channel between them breaks.
import { createCgroup, removeCgroup } from './cgroup.js';
import { createNetwork, type Network } from './network.js';
import { answerRequests, type HelperRequests } from './protocol.js';

const stop = new AbortController();
let cgroup: string | undefined;
let creation: Promise<Network> | undefined;
let removal: Promise<void> | undefined;

/** Whatever creation is doing right now, it does inside of the cgroup; so it ends soon after that is gone. */
async function removeEverything(): Promise<void> {
  stop.abort();
  if (cgroup === undefined) return;
  await removeCgroup(cgroup);
  const network = await creation?.catch(() => undefined);
  network?.release();
}

function removeOnce(): Promise<void> {
  removal ??= removeEverything();
  return removal;
}

answerRequests<HelperRequests>({
  async create({ cgroup: name, plan }) {
    stop.signal.throwIfAborted();
    cgroup = createCgroup(name);
    creation = createNetwork(plan, cgroup, stop.signal);
    const { paths, warnings } = await creation;
    return { cgroup, paths, warnings };
  },
  async close() {
    await removeOnce();
    return {};
  },
});

function end(): void {
  removeOnce().then(
    () => process.exit(0),
    () => process.exit(1),
  );
}
process.on('disconnect', end);
process.on('SIGTERM', end);
// A Ctrl-C is for the owner, whose end is seen anyway.
for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => {});
