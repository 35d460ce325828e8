import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** Mount point of the cgroup v2 hierarchy, which is not at /sys/fs/cgroup where v1 is mounted as well; undefined when there is none. */
export function findCgroupRoot(mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')): string | undefined {
  for (const line of mountinfo.split('\n')) {
    const [mount = '', filesystem = ''] = line.split(' - ');
    if (!filesystem.startsWith('cgroup2 ')) continue;
    // Spaces and the like in paths are written as octal escapes.
    const place = mount.split(' ')[4]?.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    // Another mount may cover it.
    if (place !== undefined && existsSync(path.join(place, 'cgroup.procs'))) return place;
  }
  return undefined;
}

export function createCgroup(name: string): string {
  const root = findCgroupRoot();
  if (root === undefined) throw new Error('no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup');
  const directory = path.join(root, name);
  mkdirSync(directory);
  return directory;
}

/** Processes in the cgroup and below it. */
export function processesIn(directory: string): number[] {
  const own = ifThere(() => readFileSync(path.join(directory, 'cgroup.procs'), 'utf8')) ?? '';
  return [...own.split('\n').filter(Boolean).map(Number), ...childrenOf(directory).flatMap(processesIn)];
}

/**
 * Kills whatever is in the cgroup and removes it, with the cgroups below it.
 * @throws when something in it could not be killed within `deadlineMs`.
 */
export async function removeCgroup(directory: string, deadlineMs = 20_000): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  for (let pauseMs = 1; ; pauseMs = Math.min(2 * pauseMs, 50)) {
    killAll(directory);
    if (removeTree(directory)) return;
    if (Date.now() > deadline) {
      throw new Error(
        `cgroup ${directory} could not be removed within ${deadlineMs} ms; processes in it: ${processesIn(directory).join(', ')}`,
      );
    }
    await delay(pauseMs);
  }
}

function killAll(directory: string): void {
  if (succeeds(() => writeFileSync(path.join(directory, 'cgroup.kill'), '1'))) return;
  // Before kernel 5.14. What forks meanwhile is killed in the next round.
  for (const pid of processesIn(directory)) succeeds(() => process.kill(pid, 'SIGKILL'));
}

function removeTree(directory: string): boolean {
  for (const child of childrenOf(directory)) removeTree(child);
  succeeds(() => rmdirSync(directory));
  return !existsSync(directory);
}

function childrenOf(directory: string): string[] {
  const entries = ifThere(() => readdirSync(directory, { withFileTypes: true })) ?? [];
  return entries.filter((entry) => entry.isDirectory()).map((entry) => path.join(directory, entry.name));
}

/** Processes and cgroups end at any time: what fails because of that is seen in the next round, or is what was wanted. */
function succeeds(call: () => void): boolean {
  try {
    call();
    return true;
  } catch {
    return false;
  }
}

function ifThere<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
