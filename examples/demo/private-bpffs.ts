import { spawn } from 'node:child_process';

const marker = 'EBPF_LB_DEMO_BPFFS';
const mountPoint = '/sys/fs/bpf';

/**
 * Runs this program again with a BPF file system that only it and its children can see. What they pin there is gone with the last of them,
 * whatever becomes of them.
 * @returns the mount point, in the second run; in the first one this does not return
 */
export async function enterPrivateBpffs(): Promise<string> {
  if (process.env[marker]) return mountPoint;
  const mount = `mount -t bpf bpf ${mountPoint} && exec "$@"`;
  const command = ['--mount', '--propagation', 'private', '--', 'sh', '-c', mount, 'sh', process.execPath, ...process.argv.slice(1)];
  // By the broken IPC channel the second run notices that the first one was killed.
  const child = spawn('unshare', command, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'], env: { ...process.env, [marker]: '1' } });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  return new Promise((_, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => process.exit(code ?? 1));
  });
}
