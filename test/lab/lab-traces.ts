import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { findCgroupRoot } from '../../lib/lab/cgroup.js';

/** What is left of the labs of a process: their cgroups, and processes that are in them or work for them. */
export function tracesOf(ownerPid: number): string[] {
  const prefix = `ebpf-lb-lab-${ownerPid}-`;
  const cgroups = readdirSync(findCgroupRoot() ?? '').filter((name) => name.startsWith(prefix));
  const processes = processIds().filter(
    (pid) => isAlive(pid) && (read(`/proc/${pid}/cgroup`).includes(prefix) || read(`/proc/${pid}/cmdline`).includes(prefix)),
  );
  return [...cgroups, ...processes.map((pid) => `${pid}: ${read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`)];
}

/** Processes and mounts by which these namespaces (`net:[4026532000]`) still exist. */
export function holdersOf(namespaces: readonly string[]): string[] {
  const holders: string[] = [];
  for (const pid of processIds()) {
    const links = [`/proc/${pid}/ns/net`, ...entries(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`)];
    holders.push(...links.filter((link) => namespaces.includes(follow(link))));
  }
  const mounts = read('/proc/self/mountinfo').split('\n');
  return [...holders, ...mounts.filter((mount) => namespaces.some((namespace) => mount.includes(namespace)))];
}

/** Processes that were started with this in their environment, or by one that was. */
export function marked(mark: string): string[] {
  return processIds().filter((pid) => read(`/proc/${pid}/environ`).split('\0').includes(mark));
}

/** cgroups of the labs of marked processes. */
export function labsOf(mark: string): string[] {
  const names = marked(mark).flatMap((pid) => /ebpf-lb-lab-\d+-[0-9a-f]+/.exec(read(`/proc/${pid}/cgroup`)) ?? []);
  return [...new Set(names)].map((name) => `${findCgroupRoot()}/${name}`);
}

/** Everything in the host's own namespace that a lab could disturb. */
export function hostState(): Record<string, unknown> {
  const ip = (...args: string[]) => execFileSync('ip', ['-json', ...args], { encoding: 'utf8' });
  const links: { ifname: string; flags: string[] }[] = JSON.parse(ip('link'));
  return {
    links: links.map(({ ifname, flags }) => [ifname, flags]),
    addresses: ip('-4', 'addr', 'show', 'scope', 'global').replaceAll(/"(preferred|valid)_life_time":\d+/g, ''),
    routes: [ip('route', 'show', 'table', 'all'), ip('-6', 'route', 'show', 'table', 'all').replaceAll(/"expires":\d+/g, '')],
    mounts: read('/proc/self/mountinfo'),
    names: entries('/run/netns'),
    forwarding: [read('/proc/sys/net/ipv4/ip_forward'), read('/proc/sys/net/ipv6/conf/all/forwarding')],
  };
}

export function inodeOf(netns: string): string {
  return readlinkSync(netns);
}

/** A zombie is not: it has no memory any more, so no command line. */
export function isAlive(pid: number | string): boolean {
  return read(`/proc/${pid}/cmdline`) !== '';
}

function processIds(): string[] {
  return entries('/proc').filter((name) => /^\d+$/.test(name));
}

// Processes end while they are looked at.
function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

function follow(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return '';
  }
}
