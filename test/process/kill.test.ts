import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { full, until } from '../support/fixture.js';
import { KernelObjects, pinDirectory, removePins } from '../support/pins.js';
import { stateOf, steps } from '../support/script.mjs';

const file = (name: string) => fileURLToPath(new URL(`../support/${name}`, import.meta.url));
const stopAddon = fileURLToPath(new URL('../../build/Release/ebpf_lb_stop.node', import.meta.url));

let lab: Lab;
const objects = new KernelObjects();
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client', 'server'] });
});
afterAll(() => lab?.close());

async function said(child: ChildProcess, word: string): Promise<boolean> {
  let text = '';
  for await (const chunk of child.stdout ?? []) {
    text += chunk;
    if (text.includes(word)) return true;
  }
  return false;
}

test('[1.4] SIGKILL at any moment loses and misroutes no connection, and the next open finds a clean state', { timeout: 1_800_000 }, async () => {
  const pinPath = pinDirectory();
  const servers = await Promise.all([8081, 8082, 8083, 8084, 8085].map((port, i) => lab.serveHttp('server', port, { body: `b${i}` })));
  const client = new Client(lab, 'client');
  const start = () => {
    const backends = JSON.stringify(servers.map((server) => [server.address, server.port]));
    return spawn(process.execPath, [file('controller.mjs'), pinPath, lab.cgroup, backends], { stdio: ['ignore', 'pipe', 'inherit'] });
  };
  let connections = 0;
  let traffic = true;
  const flow = async (address: string, allowed: string[]) => {
    while (traffic) {
      const { answers, errors } = await client.ask('http', { address, port: 80, count: 50, parallel: 4 });
      expect(errors).toEqual({});
      for (const [who, n] of Object.entries(answers ?? {})) {
        expect(allowed).toContain(who);
        connections += n;
      }
    }
  };
  try {
    let child = start();
    expect(await said(child, 'ready')).toBe(true);
    const flows = Promise.all([flow('10.96.0.1', ['b0', 'b1', 'b2', 'b3']), flow('10.96.0.2', ['b4'])]);
    flows.catch(() => {
      traffic = false;
    });
    const kills = full ? 100 : 8;
    for (let i = 0; i < kills && traffic; i++) {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 120)); // the moment is what is drawn
      child.kill('SIGKILL');
      await once(child, 'exit');
      const lb = await LoadBalancer.open({ pinPath });
      if (i % 4 === 0) objects.note(pinPath);
      const report = await lb.verify();
      if (!traffic) await flows; // says what went wrong
      expect(report).toMatchObject({ ok: true, problems: [] });
      expect(lb.attachments()).toHaveLength(1);
      await lb.close();
      child = start();
      expect(await said(child, 'ready')).toBe(true);
    }
    child.kill('SIGKILL');
    await once(child, 'exit');
    traffic = false;
    await flows;
    expect(connections).toBeGreaterThan(kills * 10);
    const lb = await LoadBalancer.open({ pinPath });
    await lb.close({ detach: true });
  } finally {
    traffic = false;
    client.end();
    removePins(pinPath);
    await Promise.all(servers.map((server) => server.stop()));
  }
  expect(objects.count).toBeGreaterThan(0);
  await until('every program, map and link is gone', () => objects.left().length === 0);
});

describe('[1.4] a death after each single write', () => {
  test('leaves the state before or after the change, never another, and verify() is clean', { timeout: 3_600_000 }, async () => {
    // The states that there may be, from a run that is not cut off.
    const states: string[] = [];
    const model = await LoadBalancer.open();
    states.push(stateOf(model));
    for (const step of steps) {
      await step(model);
      states.push(stateOf(model));
    }
    await model.close();

    const stride = full ? 1 : 23;
    for (let write = 1, ended = false; !ended; write += stride) {
      const pinPath = pinDirectory();
      const child = spawn(process.execPath, [file('script.mjs'), pinPath, lab.cgroup], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, EBPF_LB_ADDON: stopAddon, EBPF_LB_STOP_AFTER: String(write) },
      });
      let text = '';
      child.stdout.on('data', (chunk) => {
        text += chunk;
      });
      const [, signal] = await once(child, 'close');
      ended = text.includes('end');
      if (!ended) expect(signal).toBe('SIGKILL');
      try {
        const committed = text.split('\n').filter((line) => /^\d+$/.test(line)).length;
        const lb = await LoadBalancer.open({ pinPath });
        const state = stateOf(lb);
        expect([states[committed], states[committed + 1]], `after write ${write}, ${committed} steps`).toContain(state);
        if (write % 4 === 1) objects.note(pinPath);
        const report = await lb.verify();
        expect(report.problems, `after write ${write}`).toEqual([]);
        // And it goes on: the rest of the script works on what was found.
        lb.addService({ name: 'after', address: '10.99.0.1', port: 80, backends: [{ address: '10.1.0.1', port: 80 }] });
        expect((await lb.verify()).problems).toEqual([]);
        await lb.close({ detach: true });
      } finally {
        removePins(pinPath);
      }
    }
    expect(objects.count).toBeGreaterThan(0);
    await until('every program, map and link is gone', () => objects.left().length === 0);
  });
});
