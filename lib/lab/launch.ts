import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';

/** Where a process of the lab lives. */
export interface Place {
  cgroup: string;
  /** Path of a network namespace. Omitted: the caller's. */
  netns?: string;
}

/**
 * Starts a command that is in its cgroup and namespace before its first instruction, with a process group of its own.
 * nsenter rather than `ip netns exec`, which would mount another /sys and so hide bpffs.
 */
export function launch(place: Place, command: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const enter = place.netns === undefined ? [] : ['nsenter', `--net=${place.netns}`, '--'];
  const script = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'; // 0: the writer itself
  return spawn('/bin/sh', ['-c', script, 'sh', place.cgroup, ...enter, ...command], {
    ...options,
    env: { ...environment(), ...options.env },
    detached: true,
  });
}

/** Runs one of this package's own scripts: without what the caller's Node was told to preload or inspect. */
export function scriptEnvironment(): NodeJS.ProcessEnv {
  return { ...environment(), NODE_OPTIONS: undefined };
}

/** /usr/sbin, where `ip` is, is not in everybody's PATH. */
function environment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin'}:/usr/sbin:/sbin` };
}

/** Resolves when the process is gone, whether or not it ever ran. */
export function exited(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) resolve();
    else child.once('exit', () => resolve());
  });
}

/** Kills a launched process and what it has started, as far as it stayed in the process group. */
export function killGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It ended just now.
  }
}
