// An owner of a lab for the tests: a process that can be killed. lab-owner.mjs open|create|forget|exit|throw
import { readlinkSync } from 'node:fs';
import { Lab } from 'ebpf-lb/lab';

const what = process.argv[2];
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const options = { namespaces: ['client', 'server'] };

async function open() {
  const lab = await Lab.create(options);
  await lab.serveHttp('server', 8080);
  await lab.run('server', ['sh', '-c', 'setsid sleep 1000 > /dev/null 2>&1 &']);
  if (what !== 'forget') lab.spawn('client', ['sleep', '1000']); // which keeps the owner running
  say({ cgroup: lab.cgroup, namespaces: ['client', 'server'].map((name) => readlinkSync(lab.netns(name))) });
}

if (what === 'create') {
  say('creating');
  for (;;) await (await Lab.create(options)).close();
}
await open();
if (what === 'open') setInterval(() => {}, 1 << 30);
if (what === 'exit') process.exit(0);
if (what === 'throw') throw new Error('as the test wants it');
