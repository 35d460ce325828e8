import { isIP } from 'node:net';
import { LoadBalancerError } from '../errors.js';

export interface LabOptions {
  /** Names of namespaces, joined by one virtual switch, each with an IPv4 and an IPv6 address. */
  namespaces?: string[];
  /**
   * Or a routed topology: links between namespaces with prefixes (`['10.1.0.1/24', '10.1.0.2/24']`: of the first and of the second) and MTUs.
   * Every namespace then forwards; routes beyond the links' own prefixes are the caller's.
   */
  links?: LinkOptions[];
}
export interface LinkOptions {
  between: [string, string];
  /** Default: one IPv4 and one IPv6 prefix, private ones. */
  addresses?: [string, string][];
  /** Default 1500. */
  mtu?: number;
}

/** The switch is a namespace, too; its name is one that no caller can give. */
export const switchNamespace = '';

export interface DevicePlan {
  namespace: string;
  name: string;
  /** With prefix lengths. */
  addresses: string[];
}
/** A veth pair. */
export interface CablePlan {
  ends: [DevicePlan, DevicePlan];
  mtu: number;
}
/** Everything about a lab that can be said before anything of it exists; sent to the helper process. */
export interface LabPlan {
  /** In creation order. */
  namespaces: string[];
  cables: CablePlan[];
  forwarding: boolean;
}

const operation = 'Lab.create';
const defaultMtu = 1500;

/** The devices and addresses of the lab that these options describe; nothing is created. */
export function planLab(options: LabOptions): LabPlan {
  rejectUnknownKeys(options, ['namespaces', 'links'], '');
  const onSwitch = options.namespaces ?? [];
  const links = options.links ?? [];
  for (const [i, name] of onSwitch.entries()) {
    checkName(name, `namespaces[${i}]`);
    if (onSwitch.indexOf(name) !== i) throw invalid(`namespaces[${i}]`, `is the second '${name}'; each namespace is named once`);
  }
  for (const [i, link] of links.entries()) checkLink(link, `links[${i}]`);

  const names = new Set([...onSwitch, ...links.flatMap((link) => link.between)]);
  const nextDevice = countedNames();
  const cables = onSwitch.map((name, i) => cableToSwitch(name, i + 1, nextDevice(name)));
  for (const [i, link] of links.entries()) cables.push(cableBetween(link, i, nextDevice));
  return {
    namespaces: onSwitch.length > 0 ? [switchNamespace, ...names] : [...names],
    cables,
    forwarding: links.length > 0,
  };
}

/** eth0, eth1 ... in every namespace, in the order of the links. */
function countedNames(): (namespace: string) => string {
  const counts = new Map<string, number>();
  return (namespace) => {
    const count = counts.get(namespace) ?? 0;
    counts.set(namespace, count + 1);
    return `eth${count}`;
  };
}

// Ranges that neither usual service ranges (10.96.0.0/12, fd00:10:96::/112) nor usual pod ranges (10.244.0.0/16) overlap.
function cableToSwitch(namespace: string, index: number, name: string): CablePlan {
  return {
    ends: [
      { namespace, name, addresses: [`10.10.${index >> 8}.${index & 255}/16`, `fd00:10:10::${index.toString(16)}/64`] },
      { namespace: switchNamespace, name: `port${index}`, addresses: [] },
    ],
    mtu: defaultMtu,
  };
}

function cableBetween(link: LinkOptions, index: number, nextDevice: (namespace: string) => string): CablePlan {
  const [first, second] = link.between;
  const subnet = `10.20.${index & 255}`;
  const subnet6 = `fd00:10:20:${index.toString(16)}`;
  const pairs = link.addresses ?? [
    [`${subnet}.1/24`, `${subnet}.2/24`],
    [`${subnet6}::1/64`, `${subnet6}::2/64`],
  ];
  return {
    ends: [
      { namespace: first, name: nextDevice(first), addresses: pairs.map((pair) => pair[0]) },
      { namespace: second, name: nextDevice(second), addresses: pairs.map((pair) => pair[1]) },
    ],
    mtu: link.mtu ?? defaultMtu,
  };
}

function checkName(name: unknown, path: string): void {
  if (typeof name !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(name)) {
    throw invalid(path, `must be a name of at most 63 letters, digits, dots, dashes and underscores, got ${JSON.stringify(name)}`);
  }
}

function checkLink(link: LinkOptions, path: string): void {
  rejectUnknownKeys(link, ['between', 'addresses', 'mtu'], `${path}.`);
  if (!Array.isArray(link.between) || link.between.length !== 2) throw invalid(`${path}.between`, 'must be the names of two namespaces');
  for (const [i, name] of link.between.entries()) checkName(name, `${path}.between[${i}]`);
  if (link.between[0] === link.between[1]) throw invalid(`${path}.between`, `joins '${link.between[0]}' to itself`);
  for (const [i, pair] of (link.addresses ?? []).entries()) {
    if (!Array.isArray(pair) || pair.length !== 2) throw invalid(`${path}.addresses[${i}]`, 'must be two addresses, one for each end');
    for (const [j, address] of pair.entries()) checkPrefix(address, `${path}.addresses[${i}][${j}]`);
  }
  const { mtu } = link;
  if (mtu !== undefined && !(Number.isInteger(mtu) && mtu >= 68 && mtu <= 65535)) {
    throw invalid(`${path}.mtu`, `must be 68 to 65535 bytes, got ${String(mtu)}`);
  }
}

function checkPrefix(text: unknown, path: string): void {
  const [, address = '', length = ''] = typeof text === 'string' ? (/^([^/]+)\/(\d{1,3})$/.exec(text) ?? []) : [];
  const family = isIP(address);
  if (family === 0 || Number(length) > (family === 4 ? 32 : 128)) {
    throw invalid(path, `must be an address with a prefix length, such as 10.1.0.1/24, got ${JSON.stringify(text)}`);
  }
}

function rejectUnknownKeys(value: unknown, known: string[], prefix: string): void {
  if (typeof value !== 'object' || value === null) {
    throw invalid(prefix.slice(0, -1) || undefined, `must be an object, got ${JSON.stringify(value)}`);
  }
  const unknown = Object.keys(value).find((key) => !known.includes(key));
  if (unknown !== undefined) throw invalid(prefix + unknown, `is not an option; known are ${known.join(', ')}`);
}

function invalid(path: string | undefined, text: string): LoadBalancerError {
  return new LoadBalancerError({
    code: 'ERR_INVALID_ARGUMENT',
    operation,
    text: path === undefined ? `options ${text}` : `${path} ${text}`,
    path,
  });
}
