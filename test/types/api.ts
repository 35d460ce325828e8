/*
 * Programs against the package's types; checked, never run. A line under @ts-expect-error must be refused.
 * types.test.ts runs the compiler over this file.
 */
import {
  type AffinityEntry,
  type ApplyPlan,
  type ApplyResult,
  type Attachment,
  type BackendSpec,
  type Decision,
  type KernelFeatures,
  LoadBalancer,
  LoadBalancerError,
  type LoadBalancerErrorCode,
  type NormalizedServiceSpec,
  type Reason,
  reasons,
  type Service,
  type ServiceSpec,
  type VerifyReport,
} from 'ebpf-lb';
import type Long from 'long';

export async function asInALabScript(cgroup: string, backends: BackendSpec[]): Promise<void> {
  await using lb = await LoadBalancer.open();
  await lb.attachCgroup(cgroup);
  const service: Service = lb.addService({ name: 'web', address: '10.96.0.1', port: 80, backends });
  const decision: Decision = lb.explain({
    protocol: 'tcp',
    from: 'pod',
    source: { address: '10.0.0.1' },
    destination: { address: '10.96.0.1', port: 80 },
  });
  console.log(decision.text, service.spec.backends.length);
}

export async function asInAController(desired: readonly ServiceSpec[], signal: AbortSignal): Promise<ApplyResult> {
  const lb = await LoadBalancer.open({ pinPath: '/sys/fs/bpf/x', lockTimeoutMs: 10_000, signal, capacity: { cells: 1024 } });
  lb.on('error', (error) => console.error(error.code, error.message));
  lb.on('backend', ({ service, backend, from, to, why }) => console.log(service, backend.address, from, to, why));
  lb.once('attachment', ({ target, state }) => console.log(target, state));
  const plan: ApplyPlan = await lb.plan(desired, { prune: false });
  if (!plan.fits) throw new Error(`${plan.needs.cells} cells`);
  const result = await lb.apply(desired, { owner: 'mine', maxRemovals: 100, signal });
  // What is read can be written.
  await lb.apply(lb.services().map(({ spec }) => structuredClone(spec) as ServiceSpec));
  await lb.close({ detach: false });
  return result;
}

export async function everyCall(lb: LoadBalancer, service: Service): Promise<void> {
  const features: KernelFeatures = LoadBalancer.probe();
  const attachments: Attachment[] = [
    await lb.attachCgroup(),
    await lb.attachCgroup('/a', { namespaces: 'host' }),
    await lb.attachCgroup({ path: '/a', namespaces: ['/run/netns/b'] }),
    await lb.attachTc('eth0', { role: 'external' }),
    await lb.attachXdp('cni*', { mode: 'generic', netns: '/run/netns/b' }),
    ...lb.attachments(),
  ];
  await attachments[0]?.detach();
  service.update({ algorithm: null, affinity: { clientIP: true }, labels: null });
  lb.updateService('web', { port: 81 });
  const removed: boolean = lb.removeService(service) && service.remove();
  const found: Service | undefined = lb.service('web');
  lb.setNode({ name: 'n', addresses: ['192.0.2.1'], zone: 'z', nodePortRange: [30000, 30010] });
  const connections: Long = lb.stats().byHook.socket.connections;
  const failures: Long = lb.stats('web').backends[0]!.failures;
  const drops: Long = lb.stats().byReason['no-backends'];
  const entries: AffinityEntry[] = [...lb.affinities({ service: 'web' })];
  const report: VerifyReport = await lb.verify();
  await lb.settled();
  console.log(features, removed, found, connections, failures, drops, entries, report, lb.status().ready);
}

export function errors(error: unknown): LoadBalancerErrorCode | undefined {
  if (!(error instanceof LoadBalancerError)) return undefined;
  const path: string | undefined = error.path;
  // @ts-expect-error: codes are known
  if (error.code === 'ERR_TYPO') return undefined;
  // @ts-expect-error: an error stays as it was thrown
  error.code = 'ERR_CLOSED';
  return path === undefined ? error.code : undefined;
}

export function reason(name: Reason): string {
  // @ts-expect-error: reasons are known
  const typo: Reason = 'no-backend';
  return reasons[name].remedy + typo;
}

export function refused(lb: LoadBalancer, service: Service, spec: NormalizedServiceSpec): void {
  // @ts-expect-error: opened, not constructed
  new LoadBalancer();
  // @ts-expect-error: a service has a name
  lb.addService({ address: '10.96.0.1', port: 80 });
  // @ts-expect-error: unknown keys
  lb.addService({ name: 'a', adress: '10.96.0.1' });
  // @ts-expect-error: unknown algorithm
  lb.addService({ name: 'a', algorithm: 'fastest' });
  // @ts-expect-error: null is for changes
  lb.addService({ name: 'a', algorithm: null });
  // @ts-expect-error: names do not change
  service.update({ name: 'b' });
  // @ts-expect-error: a backend has a port
  service.setBackends([{ address: '10.0.0.1' }]);
  // @ts-expect-error: a spec that was read is not a place to write
  spec.algorithm = 'maglev';
  // @ts-expect-error: no such event
  lb.on('flow', () => {});
  // @ts-expect-error: a device has a role
  lb.attachTc('eth0');
  // @ts-expect-error: unknown mode
  lb.attachXdp('eth0', { mode: 'offload' });
  lb.explain({ protocol: 'tcp', from: 'external', source: { address: '::1' }, destination: { address: '::1', port: 1 } });
  // @ts-expect-error: options of one form at a time
  lb.attachCgroup({ path: '/a' }, { namespaces: 'all' });
}
