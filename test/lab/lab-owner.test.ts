// What is left of a lab when the process that owns it ends.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { full, slow } from '../support/fixture.js';
import { holdersOf, tracesOf } from './lab-traces.js';

const script = fileURLToPath(new URL('lab-owner.mjs', import.meta.url));
const kills = full ? 200 : 12;
const patience = { timeout: 20_000 * slow, interval: 20 };
vi.setConfig({ testTimeout: 60_000 * slow * (full ? 30 : 1) });

interface Said {
  cgroup: string;
  namespaces: string[];
}

const started: ChildProcess[] = [];
afterEach(() => {
  // Those of tests that failed.
  for (const child of started.splice(0)) child.kill('SIGKILL');
});

/** Starts an owner in a process group of its own and waits for its first line. */
async function owner(what: string): Promise<{ child: ChildProcess; pid: number; said: Said }> {
  const child = spawn(process.execPath, [script, what], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  started.push(child);
  const [line] = await once(createInterface(child.stdout), 'line');
  return { child, pid: child.pid ?? 0, said: JSON.parse(line as string) };
}

async function expectNothingLeft(pid: number, namespaces: string[] = []): Promise<void> {
  await expect.poll(() => tracesOf(pid), patience).toEqual([]);
  await expect.poll(() => holdersOf(namespaces), patience).toEqual([]);
}

describe('a lab whose owner ends without closing it', () => {
  it('is there until then', async () => {
    const { child, pid, said } = await owner('open');
    expect(tracesOf(pid)).not.toEqual([]);
    expect(holdersOf(said.namespaces)).not.toEqual([]);
    child.kill('SIGKILL');
    await expectNothingLeft(pid, said.namespaces);
  });

  it.each(['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGABRT'] as const)('is removed when the owner dies of %s', async (signal) => {
    const { child, pid, said } = await owner('open');
    child.kill(signal);
    await once(child, 'exit');
    await expectNothingLeft(pid, said.namespaces);
  });

  it('is removed when a Ctrl-C goes to the whole process group', async () => {
    const { child, pid, said } = await owner('open');
    process.kill(-pid, 'SIGINT');
    await once(child, 'exit');
    await expectNothingLeft(pid, said.namespaces);
  });

  it.each([
    ['comes to its end, which an open lab does not prevent', 'forget', 0],
    ['calls process.exit()', 'exit', 0],
    ['dies of an exception', 'throw', 1],
  ])('is gone already when an owner that %s has ended', async (_, what, expectedCode) => {
    const { child, pid, said } = await owner(what);
    const [code] = child.exitCode === null ? await once(child, 'exit') : [child.exitCode];
    expect(code).toBe(expectedCode);
    expect(tracesOf(pid)).toEqual([]);
    expect(holdersOf(said.namespaces)).toEqual([]);
  });

  it(`leaves nothing behind when the owner is killed somewhere in the middle of create() or close(), ${kills} times`, async () => {
    for (let i = 0; i < kills; i++) {
      const { child, pid } = await owner('create');
      await delay(Math.random() * 300 * slow); // the moment is what is tried here
      child.kill('SIGKILL');
      await expectNothingLeft(pid);
    }
  });

  it('does not disturb the labs of other processes', async () => {
    const owners = await Promise.all([1, 2, 3].map(() => owner('open')));
    const [first, ...others] = owners;
    first?.child.kill('SIGKILL');
    await expectNothingLeft(first?.pid ?? 0, first?.said.namespaces);
    for (const { pid, said } of others) {
      expect(tracesOf(pid)).toContain(said.cgroup.split('/').at(-1));
      expect(holdersOf(said.namespaces).length).toBeGreaterThan(0);
    }
    for (const { child, pid, said } of others) {
      child.kill('SIGKILL');
      await expectNothingLeft(pid, said.namespaces);
    }
  });
});
