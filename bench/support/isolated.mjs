// Runs one question in a process of its own with a private network namespace, a private mount namespace with a bpffs, a cgroup and a scratch
// directory, and takes all of that away again, however it ends.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const worker = fileURLToPath(new URL('../question.mjs', import.meta.url));

function cgroupRoot() {
  const mount = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .find(([, , type]) => type === 'cgroup2');
  if (!mount) throw new Error('no cgroup v2 hierarchy is mounted');
  return mount[1];
}

// Waits for the end of its input, which comes with the end of whoever started it, SIGKILL included. Only this run's processes are in its cgroup.
const removal = `
read -r _
for i in $(seq 100); do
  while read -r pid; do kill -9 "$pid"; done <"$1/cgroup.procs"
  rmdir "$1" && break
  sleep 0.05
done
rm -rf "$2"`;

/** Makes cgroup and scratch directory; `remove` takes them away. */
function makeRoom() {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-bench-'));
  const cgroup = path.join(cgroupRoot(), path.basename(scratch));
  // In a process group of its own: Ctrl-C is not for it.
  const remover = spawn('sh', ['-c', removal, 'remove', cgroup, scratch], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  const removed = once(remover, 'close');
  mkdirSync(path.join(scratch, 'bpf'));
  mkdirSync(cgroup);
  const remove = async () => {
    remover.stdin.end();
    await removed;
  };
  return { cgroup, scratch, remove };
}

function runWorker(question, { cgroup, scratch }, { log, signal }) {
  return new Promise((resolve, reject) => {
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
}

/** Resolves to `{ figures, notes }`. */
export async function answer(question, { log, signal }) {
  const room = makeRoom();
  try {
    return await runWorker(question, room, { log, signal });
  } finally {
    await room.remove();
  }
}

/** In the worker: makes the scratch directory's bpffs, which ends with the mount namespace. */
export const mountCommand = (scratch) => ['mount', '-t', 'bpf', 'bpf', path.join(scratch, 'bpf')];
