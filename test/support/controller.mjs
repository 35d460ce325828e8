// A controller that never stops changing things, until it is killed. Arguments: pin directory, cgroup, backends as JSON [[address, port] x 5].
import { LoadBalancer } from 'ebpf-lb';

const [pinPath, cgroup, json] = process.argv.slice(2);
const backends = JSON.parse(json).map(([address, port]) => ({ address, port }));
const [a, b] = [backends.slice(0, 2), backends.slice(2, 4)];
const fixed = backends.slice(4);

const lb = await LoadBalancer.open({ pinPath, lockTimeoutMs: 10_000 });
await lb.attachCgroup(cgroup);
const filler = (i, n) => ({ name: `filler-${i}`, address: `10.97.${i >> 8}.${i & 255}`, port: 80, backends: n % 2 ? a : b });
await lb.apply([{ name: 'flips', address: '10.96.0.1', port: 80, backends: a }, { name: 'stays', address: '10.96.0.2', port: 80, backends: fixed }]);
process.stdout.write('ready\n');

for (let n = 0; ; n++) {
  lb.setBackends('flips', n % 2 ? a : b);
  lb.updateService('stays', { labels: { round: String(n) } });
  if (n % 4 === 0)
    await lb.apply([
      { name: 'flips', address: '10.96.0.1', port: 80, backends: n % 8 ? a : b },
      { name: 'stays', address: '10.96.0.2', port: 80, backends: fixed },
      ...Array.from({ length: (n * 7) % 60 }, (_, i) => filler(i, n)),
    ]);
  if (n % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
}
