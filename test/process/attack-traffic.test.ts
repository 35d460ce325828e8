import { once } from 'node:events';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compile } from '../support/compile.js';
import { full } from '../support/fixture.js';

let lab: Lab;
let lb: LoadBalancer;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
  lb = await LoadBalancer.open();
  await lb.attachCgroup(lab.cgroup);
});
afterAll(async () => {
  await lb?.close();
  await lab?.close();
});

test('[1.3] no connection is refused while all backends of a service are replaced again and again', { timeout: 600_000 }, async () => {
  const backends = (n: number) => [0, 1].map((i) => ({ address: `10.${(n >> 7) & 255}.${(n << 1) & 255}.${i + 1}`, port: 1000 }));
  lb.addService({ name: 's', address: '172.20.0.1', port: 80, backends: backends(0) });
  const child = lab.spawn('client', [compile('refused'), '4']);
  let text = '';
  child.stdout?.on('data', (chunk) => {
    text += chunk;
  });
  const until = Date.now() + (full ? 120_000 : 8_000);
  for (let n = 1; Date.now() < until; n++) {
    lb.setBackends('s', backends(n));
    if (n % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  child.stdin?.end();
  await once(child, 'close');
  const seen = JSON.parse(text) as { connects: number };
  expect(seen).toMatchObject({ errors: 0, error: '' });
  expect(seen.connects).toBeGreaterThan(1000);
  lb.removeService('s');
});
