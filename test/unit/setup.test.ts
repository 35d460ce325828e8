import { execFile } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;

let scratch: string;
let bin: string;

beforeEach(() => {
  scratch = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-setup-'));
  chmodSync(scratch, 0o755);
  bin = path.join(scratch, 'bin');
  mkdirSync(bin);
  mkdirSync(path.join(scratch, 'scripts'));
  for (const name of ['setup.sh', 'locked.sh']) cpSync(path.join(root, 'scripts', name), path.join(scratch, 'scripts', name));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

function command(name: string, script: string): void {
  writeFileSync(path.join(bin, name), `#!/bin/bash\n${script}\n`);
  chmodSync(path.join(bin, name), 0o755);
}

async function setup(args: string[] = [], uid = process.getuid?.()): Promise<{ status: number; output: string }> {
  try {
    const options = { env: { PATH: bin }, ...(uid === undefined ? {} : { uid }) };
    const { stdout, stderr } = await run('/bin/bash', [path.join(scratch, 'scripts/setup.sh'), ...args], options);
    return { status: 0, output: stdout + stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { status: code, output: stdout + stderr };
  }
}

/** A system with an apt of its own: `install` logs what it was asked for and makes the commands that the packages have. */
function fakeSystem(present: string[]): void {
  for (const name of ['env', 'cut', 'flock', 'uname']) symlinkSync(`/usr/bin/${name}`, path.join(bin, name));
  for (const name of present) command(name, name.startsWith('clang') ? 'echo 19.1.7' : 'exit 0');
  command('sudo', 'exit 1');
  command('apt-cache', 'case $2 in linux-tools-generic) echo "  Candidate: (none)";; *) echo "  Candidate: 1:2.3";; esac');
  command(
    'apt-get',
    `log() { echo "$*" >> ${scratch}/apt.log; }
     for word; do
       case $word in update) log update;; -*|DPkg*|Acquire*|install) ;; *) log "$word"
         case $word in ninja-build) word=ninja;; iproute2) word=ip;; esac
         printf '#!/bin/bash\\necho 19.1.7\\n' > ${bin}/$word; /bin/chmod 755 ${bin}/$word;;
       esac
     done`,
  );
}
const everything = ['cmake', 'ninja', 'g++', 'make', 'pkg-config', 'clang-19', 'bpftool', 'ip', 'curl', 'ethtool'];
const asked = () => readFileSync(path.join(scratch, 'apt.log'), 'utf8').trim().split('\n').sort();

describe('scripts/setup.sh', () => {
  it('asks apt for nothing when nothing is missing', async () => {
    fakeSystem(everything);
    expect(await setup()).toEqual({ status: 0, output: 'setup: nothing is missing\n' });
    expect(existsSync(path.join(scratch, 'apt.log'))).toBe(false);
  });

  it('takes any clang from 14 on, and no older one', async () => {
    fakeSystem(everything.filter((name) => name !== 'clang-19'));
    command('clang', 'echo 14.0.6');
    expect((await setup(['--check'])).status).toBe(0);
    command('clang', 'echo 13.0.1');
    expect(await setup(['--check'])).toMatchObject({ status: 1, output: expect.stringContaining('clang-19|') });
  });

  it.runIf(isRoot)('installs what is missing and nothing else (needs root)', async () => {
    fakeSystem(everything.filter((name) => name !== 'ninja' && name !== 'clang-19'));
    const { status, output } = await setup();
    expect(output).toContain('ninja-build');
    expect(status).toBe(0);
    expect(asked()).toEqual(['clang-19', 'ninja-build']);
  });

  it('says what to do when it may not install', async () => {
    fakeSystem(everything.filter((name) => name !== 'ninja'));
    const nobody = 65534;
    expect(await setup([], isRoot ? nobody : undefined)).toMatchObject({
      status: 1,
      output: expect.stringContaining("run 'sudo scripts/setup.sh' once"),
    });
  });

  it('names the packages where there is no apt', async () => {
    fakeSystem(everything.filter((name) => name !== 'ninja'));
    rmSync(path.join(bin, 'apt-get'));
    expect(await setup()).toMatchObject({ status: 1, output: expect.stringMatching(/ninja-build.*apt-get is not there/) });
  });

  it('refuses other systems', async () => {
    command('uname', 'echo Darwin');
    expect(await setup()).toMatchObject({ status: 1, output: expect.stringContaining('Linux only') });
  });
});

describe('scripts/locked.sh', () => {
  it('lets only one build of a checkout run at a time', async () => {
    const log = path.join(scratch, 'log');
    // Would interleave without the lock: each child waits for the other's first line, up to a deadline, before it writes its second.
    const child = (name: string, other: string) =>
      `echo ${name}1 >> ${log}; for i in 1 2 3 4 5; do grep -q ${other}1 ${log} && break; sleep 0.05; done; echo ${name}2 >> ${log}`;
    const locked = (text: string) => run(path.join(scratch, 'scripts/locked.sh'), ['bash', '-c', text]);
    await Promise.all([locked(child('a', 'b')), locked(child('b', 'a'))]);
    const lines = readFileSync(log, 'utf8').trim().split('\n').join(' ');
    expect(['a1 a2 b1 b2', 'b1 b2 a1 a2']).toContain(lines);
  });

  it('may be called from inside itself, and hands on the exit status', async () => {
    const script = path.join(scratch, 'scripts/locked.sh');
    await expect(run(script, [script, 'bash', '-c', 'exit 7'])).rejects.toMatchObject({ code: 7 });
  });
});
