// Runs one question in a process of its own with a private network namespace, a private mount namespace with a bpffs, a cgroup and a scratch
// directory, and takes all of that away again, however it ends.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const worker = fileURLToPath(new URL('../question.mjs', import.meta.url));
const cgroupPrefix = 'ebpf-lb-bench-';

function cgroupRoot() {
  const mount = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .find(([, , type]) => type === 'cgroup2');
  if (!mount) throw new Error('no cgroup v2 hierarchy is mounted');
  return mount[1];
}

/** Cgroups of runs that were killed. */
function removeStale(root) {
  for (const name of readdirSync(root)) {
    if (!name.startsWith(cgroupPrefix) || existsSync(`/proc/${name.slice(cgroupPrefix.length)}`)) continue;
    try {
      rmdirSync(path.join(root, name));
    } catch {
      // its processes are still ending
    }
  }
}

async function removeCgroup(directory) {
  for (let i = 0; i < 100; i++) {
    try {
      rmdirSync(directory);
      return;
    } catch (error) {
      if (error.code === 'ENOENT') return;
      if (error.code !== 'EBUSY') throw error;
      for (const pid of readFileSync(path.join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
        try {
          process.kill(Number(pid), 'SIGKILL'); // only this run's processes are in its cgroup
        } catch {
          // gone meanwhile
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error(`${directory} stays busy`);
}

/** Resolves to `{ figures, notes }`. */
export async function answer(question, { log, signal }) {
  const root = cgroupRoot();
  removeStale(root);
  const cgroup = path.join(root, `${cgroupPrefix}${process.pid}`);
  const scratch = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-bench-'));
  mkdirSync(cgroup);
  mkdirSync(path.join(scratch, 'bpf'));
  try {
    return await new Promise((resolve, reject) => {
      // The worker dies with this process (setpriv), and with it the namespaces, the mount, the unpinned programs and the probes.
      const wrapped = ['--pdeathsig', 'KILL', 'unshare', '--net', '--mount', '--propagation', 'private'];
      const child = spawn('setpriv', [...wrapped, process.execPath, worker, question, cgroup, scratch], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        signal,
        killSignal: 'SIGKILL',
      });
      let result;
      child.on('message', (message) => {
        if (message.log) log(message.log);
        else result = message;
      });
      child.on('error', reject);
      child.on('close', (status, killed) => {
        if (result?.error) reject(new Error(result.error));
        else if (result && status === 0) resolve(result);
        else reject(new Error(`${question} ended with ${killed ?? `status ${status}`}`));
      });
    });
  } finally {
    await removeCgroup(cgroup);
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** In the worker: makes the scratch directory's bpffs, which ends with the mount namespace. */
export const mountCommand = (scratch) => ['mount', '-t', 'bpf', 'bpf', path.join(scratch, 'bpf')];
