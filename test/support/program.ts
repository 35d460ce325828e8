import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const support = fileURLToPath(new URL('.', import.meta.url));
const stopAddon = fileURLToPath(new URL('../../build/Release/ebpf_lb_stop.node', import.meta.url));

/** A process that runs `program`, in which LoadBalancer is imported. */
export function run(program: string, env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, ['--input-type=module', '-e', `import { LoadBalancer } from 'ebpf-lb'; ${program}`], {
    stdio: ['pipe', 'pipe', 'inherit'],
    cwd: support,
    env: { ...process.env, ...env },
  });
}

/** Runs a program that kills itself at its N-th write; what it said. */
export async function runUntil(write: number, program: string): Promise<string> {
  const child = run(program, { EBPF_LB_ADDON: stopAddon, EBPF_LB_STOP_AFTER: String(write) });
  let text = '';
  child.stdout?.on('data', (chunk) => {
    text += chunk;
  });
  await once(child, 'close');
  return text;
}
