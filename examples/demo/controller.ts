// The process that controls the balancer in the demo, and that the demo kills. It could as well be yours.
// controller.js PIN_PATH CGROUP SERVICE, a ServiceSpec as JSON; then every message is a list of backends, or 'close'.
import { type BackendSpec, LoadBalancer, type ServiceSpec } from 'ebpf-lb';

const [pinPath = '', cgroup = '', json = '{}'] = process.argv.slice(2);
const spec: ServiceSpec = JSON.parse(json);

const lb = await LoadBalancer.open({ pinPath, lockTimeoutMs: 5000 });
await lb.attachCgroup(cgroup);
// After a crash everything is still there; a first start adds it.
const found = lb.service(spec.name);
const service = found ?? lb.addService(spec);

process.on('message', async (message: BackendSpec[] | 'close') => {
  if (message === 'close') {
    await lb.close({ detach: true });
    process.exit();
  }
  service.setBackends(message);
  process.send?.('done');
});
process.on('disconnect', () => process.exit());
process.send?.({ recovered: found !== undefined, backends: service.spec.backends.length });
