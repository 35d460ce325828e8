import { LoadBalancer } from 'ebpf-lb';
import { capacityFor } from './services.mjs';

/** A balancer that holds `desired`; unpinned unless `options` says otherwise. Closed, detached and unpinned when `use` is over. */
export async function withBalancer(desired, use, options = {}) {
  const lb = await LoadBalancer.open({ capacity: capacityFor(desired.length), ...options });
  try {
    await lb.apply(desired);
    await lb.settled();
    return await use(lb);
  } finally {
    await lb.close({ detach: true });
  }
}

/** Calls `use` while the programs are attached to the cgroup: direct connections are measured while they are not attached anywhere. */
export async function whileAttached(lb, cgroup, use) {
  const attachment = await lb.attachCgroup(cgroup);
  try {
    return await use();
  } finally {
    await attachment.detach();
  }
}
