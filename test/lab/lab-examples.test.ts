import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { slow, until } from '../support/fixture.js';
import { labsOf, marked } from './lab-traces.js';

const marker = 'EBPF_LB_TEST_MARKER';
const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
});

/** A program from build/examples; every process that it starts inherits the mark. */
function run(name: string) {
  const file = fileURLToPath(new URL(`../../build/examples/${name}.js`, import.meta.url));
  const mark = `${marker}=${randomUUID()}`;
  const env = { ...process.env, [marker]: mark.slice(marker.length + 1) };
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env });
  started.push(child);
  return { child, mark, pid: child.pid ?? 0, output: Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]) };
}

/** Nothing with the mark runs, and the cgroups that were seen are gone. */
async function expectNothingLeft(mark: string, labs: string[] = []): Promise<void> {
  await until('the processes of the example are gone', () => marked(mark).length === 0);
  await until('its cgroups are gone', () => labs.every((lab) => !existsSync(lab)));
  expect(readdirSync('/sys/fs/bpf')).not.toContain('demo');
}

describe('the examples', () => {
  it('01-lab-script explains a packet, gets six answers and leaves nothing behind', { timeout: 60_000 * slow }, async () => {
    const { output, mark } = run('01-lab-script');
    const [stdout, stderr, [code]] = await output;
    const [explained, ...answers] = stdout.split('\n').filter(Boolean);
    expect({ code, stderr, count: answers.length }).toEqual({ code: 0, stderr: '', count: 6 });
    expect(explained).toContain('web');
    for (const answer of answers) expect(answer).toMatch(/^10\.10\.0\.2:808[123]$/);
    await expectNothingLeft(mark);
  });

  it('the demo ends within a minute, has lost no connection and leaves nothing behind', { timeout: 120_000 * slow }, async () => {
    const startedAt = performance.now();
    const { output, mark } = run('demo');
    await until('a lab is there', () => labsOf(mark).length === 1);
    const labs = labsOf(mark);
    const [stdout, stderr, [code]] = await output;
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [, made, lost] = /(\d+) connections made, (\d+) lost;/.exec(stdout) ?? [];
    expect(Number(made)).toBeGreaterThan(1000);
    expect(lost).toBe('0');
    expect(stdout).toContain('it found the service with its 4 backends');
    expect(performance.now() - startedAt).toBeLessThan(60_000 * slow);
    await expectNothingLeft(mark, labs);
  });

  it.each([
    ['a Ctrl-C while it sets up', 'SIGINT', true, 'Setting up'],
    ['a Ctrl-C in the first act', 'SIGINT', true, 'equal weight'],
    ['a SIGTERM to itself alone', 'SIGTERM', false, 'equal weight'],
    ['a SIGKILL to itself alone', 'SIGKILL', false, 'equal weight'],
  ] as const)('the demo leaves nothing behind after %s', { timeout: 60_000 * slow }, async (_, signal, wholeGroup, moment) => {
    const { child, output, mark, pid } = run('demo');
    let said = '';
    child.stdout.on('data', (data: Buffer) => {
      said += data.toString();
    });
    await until(`it says '${moment}'`, () => said.includes(moment), 30_000);
    const labs = labsOf(mark);
    process.kill(wholeGroup ? -pid : pid, signal);
    const [, stderr, [code]] = await output;
    expect(stderr).toBe('');
    expect(code).toBe(signal === 'SIGKILL' ? null : 130);
    await expectNothingLeft(mark, labs);
  });
});
