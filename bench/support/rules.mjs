// The rules that kube-proxy would write for the services of a measurement, in its iptables and nftables modes: the chains that a connection from
// this node to a cluster IP passes, with the shapes, names and comments kube-proxy gives them. Left out: node ports, the filter tables' checks
// for services without endpoints, and health-check ports, which such a connection does not need. So kube-proxy itself is slower, not faster.
import { createHash } from 'node:crypto';
import { backendRange } from './services.mjs';

const hash = (text) => createHash('sha256').update(text).digest('hex').slice(0, 16).toUpperCase();
const endpoint = ({ address, port }) => `${address}:${port}`;

// ---- iptables: KUBE-SERVICES -> KUBE-SVC-x, one of its endpoints at random -> KUBE-SEP-x, DNAT ----------------------------------------------

const svc = (service) => `KUBE-SVC-${hash(service.name)}`;
const sep = (service, backend) => `KUBE-SEP-${hash(`${service.name}${endpoint(backend)}`)}`;

const portal = ({ name, address, port, protocol }) =>
  `-m comment --comment "${name} cluster IP" -m ${protocol} -p ${protocol} -d ${address}/32 --dport ${port}`;

function* iptablesService(service) {
  const { name, address, port, protocol, backends } = service;
  yield `-A ${svc(service)} -m comment --comment "${name} cluster IP" -m ${protocol} -p ${protocol} -d ${address}/32 --dport ${port} ! -s ${backendRange} -j KUBE-MARK-MASQ`;
  for (const [i, backend] of backends.entries()) {
    const left = backends.length - i;
    const chance = left > 1 ? `-m statistic --mode random --probability ${(1 / left).toFixed(11)} ` : '';
    yield `-A ${svc(service)} -m comment --comment "${name} -> ${endpoint(backend)}" ${chance}-j ${sep(service, backend)}`;
  }
  for (const backend of backends) {
    yield `-A ${sep(service, backend)} -m comment --comment "${name}" -s ${backend.address}/32 -j KUBE-MARK-MASQ`;
    yield `-A ${sep(service, backend)} -m comment --comment "${name}" -m ${protocol} -p ${protocol} -j DNAT --to-destination ${endpoint(backend)}`;
  }
}

/** Portals in KUBE-SERVICES for all of them; chains for those of `changed`: what kube-proxy passes to `iptables-restore --noflush`. */
function iptablesBody(services, changed, removed = []) {
  const lines = [':KUBE-SERVICES - [0:0]'];
  for (const service of changed) {
    lines.push(`:${svc(service)} - [0:0]`);
    for (const backend of service.backends) lines.push(`:${sep(service, backend)} - [0:0]`);
  }
  for (const chain of removed) lines.push(`:${chain} - [0:0]`);
  for (const service of services) lines.push(`-A KUBE-SERVICES ${portal(service)} -j ${svc(service)}`);
  for (const service of changed) lines.push(...iptablesService(service));
  for (const chain of removed) lines.push(`-X ${chain}`);
  return lines;
}

export const iptablesRules = (services) =>
  [
    '*nat',
    ':KUBE-MARK-MASQ - [0:0]',
    ':KUBE-POSTROUTING - [0:0]',
    ...iptablesBody(services, services),
    '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    '-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000',
    '-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN',
    '-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000',
    '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    'COMMIT',
    '',
  ].join('\n');

/** The change of one service among `services` from `before` to `after` (kube-proxy since 1.26: all portals, the chains of what changed). */
export function iptablesChange(services, before, after) {
  const gone = before.backends.filter((b) => !after.backends.some((a) => endpoint(a) === endpoint(b)));
  const body = iptablesBody(
    services,
    [after],
    gone.map((backend) => sep(before, backend)),
  );
  return ['*nat', ...body, 'COMMIT', ''].join('\n');
}

// ---- nftables: a verdict map by address, protocol and port -> chain of the service -> chain of an endpoint, DNAT ------------------------------

const suffix = ({ name, protocol }) => `${hash(name).slice(0, 8)}-${name.replace(':', `/${protocol}/`)}`;
const chainOf = (service) => `service-${suffix(service)}`;
const endpointChain = (service, backend) =>
  `endpoint-${hash(`${service.name}${endpoint(backend)}`).slice(0, 8)}-${endpoint(backend).replace(':', '/')}`;
const table = 'ip kube-proxy';

function serviceRules(service) {
  const { address, port, protocol, backends } = service;
  const choices = backends.map((backend, i) => `${i} : goto ${endpointChain(service, backend)}`).join(', ');
  return [
    `add rule ${table} ${chainOf(service)} ip daddr ${address} ${protocol} dport ${port} ip saddr != ${backendRange} jump mark-for-masquerade`,
    `add rule ${table} ${chainOf(service)} numgen random mod ${backends.length} vmap { ${choices} }`,
  ];
}

const endpointRules = (service, backend) => [
  `add rule ${table} ${endpointChain(service, backend)} ip saddr ${backend.address} jump mark-for-masquerade`,
  `add rule ${table} ${endpointChain(service, backend)} meta l4proto ${service.protocol} dnat to ${endpoint(backend)}`,
];

/** For `nft -f`: the whole table. */
export function nftRules(services) {
  const lines = [
    `add table ${table}`,
    `add chain ${table} mark-for-masquerade`,
    `add rule ${table} mark-for-masquerade mark set mark or 0x4000`,
    `add chain ${table} masquerading`,
    `add rule ${table} masquerading mark and 0x4000 == 0 return`,
    `add rule ${table} masquerading mark set mark xor 0x4000`,
    `add rule ${table} masquerading masquerade fully-random`,
    `add map ${table} service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }`,
    `add chain ${table} services`,
    `add rule ${table} services ip daddr . meta l4proto . th dport vmap @service-ips`,
    ...['prerouting', 'output'].flatMap((hook) => [
      `add chain ${table} nat-${hook} { type nat hook ${hook} priority -100 ; }`,
      `add rule ${table} nat-${hook} jump services`,
    ]),
    `add chain ${table} nat-postrouting { type nat hook postrouting priority 100 ; }`,
    `add rule ${table} nat-postrouting jump masquerading`,
  ];
  for (const service of services) {
    for (const backend of service.backends) lines.push(`add chain ${table} ${endpointChain(service, backend)}`);
    lines.push(`add chain ${table} ${chainOf(service)}`);
  }
  for (const service of services) {
    lines.push(
      `add element ${table} service-ips { ${service.address} . ${service.protocol} . ${service.port} : goto ${chainOf(service)} }`,
    );
    lines.push(...serviceRules(service));
    for (const backend of service.backends) lines.push(...endpointRules(service, backend));
  }
  return `${lines.join('\n')}\n`;
}

/** For `nft -f`: the change of one service from `before` to `after`. */
export function nftChange(before, after) {
  const has = (service, backend) => service.backends.some((other) => endpoint(other) === endpoint(backend));
  const fresh = after.backends.filter((backend) => !has(before, backend));
  const gone = before.backends.filter((backend) => !has(after, backend));
  return `${[
    ...fresh.map((backend) => `add chain ${table} ${endpointChain(after, backend)}`),
    ...fresh.flatMap((backend) => endpointRules(after, backend)),
    `flush chain ${table} ${chainOf(after)}`,
    ...serviceRules(after),
    ...gone.flatMap((backend) => [
      `flush chain ${table} ${endpointChain(before, backend)}`,
      `delete chain ${table} ${endpointChain(before, backend)}`,
    ]),
  ].join('\n')}\n`;
}
