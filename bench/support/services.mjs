// Addresses and services of the measurements. Nothing of this exists outside of the private network namespaces that the bench makes: services at
// 10.96.0.0/12 and fd96::/64, backends at 10.128.0.0/10 and fd80::/64, all of the latter local to the loopback device there.

export const servicePort = 80;
export const backendPort = 8080;
const backendsPerService = 3;
/** The first backend; those before it are nobody's: the client's own address is 10.128.0.1. */
const firstBackend = 16;

const ipv4 = (base, i) => {
  const value = base + i;
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
};
const ipv6 = (prefix, i) => `${prefix}::${(i >>> 16).toString(16)}:${(i & 0xffff).toString(16)}`;

export const serviceAddress = (i, family = 4) => (family === 4 ? ipv4(0x0a600000, i) : ipv6('fd96', i));
export const backendAddress = (i, family = 4) => (family === 4 ? ipv4(0x0a800000, firstBackend + i) : ipv6('fd80', firstBackend + i));
export const clientAddress = '10.128.0.1';
export const backendRange = '10.128.0.0/10';
export const serviceRange = '10.96.0.0/12';

export const backendsOf = (service, count = backendsPerService, family = 4) =>
  Array.from({ length: count }, (_, b) => ({ address: backendAddress(service * count + b, family), port: backendPort }));

/** `count` services, each with backends of its own. */
export const services = (count, { protocol = 'tcp', family = 4, backends = backendsPerService, algorithm = 'random' } = {}) =>
  Array.from({ length: count }, (_, i) => ({
    name: `bench/s${i}:http`,
    address: serviceAddress(i, family),
    port: servicePort,
    protocol,
    algorithm,
    backends: backendsOf(i, backends, family),
  }));

/** Room for that many services where the defaults have none. */
export const capacityFor = (count) =>
  count <= 20_000 ? undefined : { frontends: count * 1.3, backends: count * backendsPerService * 1.1, cells: count * 16 };

/** Commands that make the addresses, and a way to the services' for what rewrites packets, in the current network namespace. */
export const loopbackCommands = [
  ['ip', 'link', 'set', 'lo', 'up'],
  ['ip', 'address', 'add', `${clientAddress}/10`, 'dev', 'lo'],
  ['ip', 'address', 'add', 'fd80::1/64', 'dev', 'lo', 'nodad'],
  ['ip', 'route', 'add', 'local', 'fd80::/64', 'dev', 'lo'],
  ['ip', 'route', 'add', serviceRange, 'dev', 'lo', 'src', clientAddress],
];
