import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';

const lab = await Lab.create({ namespaces: ['client', 'server'] });
const lb = await LoadBalancer.open();
await lb.attachCgroup(lab.cgroup);
const backends = await Promise.all([8081, 8082, 8083].map((port) => lab.serveHttp('server', port)));
lb.addService({ name: 'web', address: '10.96.0.1', port: 80, backends });
console.log(
  lb.explain({ protocol: 'tcp', from: 'pod', source: { address: lab.address('client') }, destination: { address: '10.96.0.1', port: 80 } })
    .text,
);
for (let i = 0; i < 6; i++) console.log(await lab.run('client', ['curl', '-s', 'http://10.96.0.1/']));
await lb.close();
await lab.close();
