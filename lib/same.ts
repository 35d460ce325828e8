import { type Backend, type BackendPlace, DEFAULTS, type Frontend, type Spec } from './spec.js';
import type { ServiceSpec } from './types.js';

/*
 * Whether what a user gave is what is stored already. `true` is certain, so that thousands of unchanged services cost no copy and no check;
 * `false` may also mean unusual spelling (upper-case IPv6, explicit empty lists), and then the normal forms are compared.
 */

function sameNames(stored: readonly string[] | undefined, given: unknown): boolean {
  if (stored === undefined || !Array.isArray(given) || given.length !== stored.length) return false;
  for (let i = 0; i < stored.length; i++) if (given[i] !== stored[i]) return false;
  return true;
}

function sameBackend(stored: Backend, given: unknown): boolean {
  if (typeof given !== 'object' || given === null) return false;
  const value = given as Record<string, unknown>;
  if (value['port'] !== stored.port || value['address'] !== stored.address) return false;
  const { place } = stored;
  // Fields that differ from their defaults must be among those given.
  let missing = place === undefined ? 0 : placeFields(place);
  if (stored.weight !== DEFAULTS.weight) missing++;
  if (stored.state !== DEFAULTS.state) missing++;
  for (const key in value) {
    const field = value[key];
    if (field === undefined) continue;
    switch (key) {
      case 'address':
      case 'port':
        continue;
      case 'weight':
        if (field !== stored.weight) return false;
        if (field !== DEFAULTS.weight) missing--;
        continue;
      case 'state':
        if (field !== stored.state) return false;
        if (field !== DEFAULTS.state) missing--;
        continue;
      case 'node':
      case 'zone':
      case 'via':
        if (place === undefined || field !== place[key]) return false;
        missing--;
        continue;
      case 'forZones':
      case 'forNodes':
        if (!sameNames(place?.[key], field)) return false;
        missing--;
        continue;
      default:
        return false;
    }
  }
  return missing === 0;
}

function placeFields(place: BackendPlace): number {
  let count = 0;
  if (place.node !== undefined) count++;
  if (place.zone !== undefined) count++;
  if (place.forZones !== undefined) count++;
  if (place.forNodes !== undefined) count++;
  if (place.via !== undefined) count++;
  return count;
}

/** Whether `given`, unchecked, is `stored`. */
export function isSameBackends(stored: readonly Backend[], given: unknown): boolean {
  if (!Array.isArray(given) || given.length !== stored.length) return false;
  for (let i = 0; i < stored.length; i++) if (!sameBackend(stored[i]!, given[i])) return false;
  return true;
}

function sameFrontend(stored: Frontend, given: unknown): boolean {
  if (typeof given !== 'object' || given === null) return false;
  const value = given as Record<string, unknown>;
  if (value['port'] !== stored.port || value['address'] !== stored.address || value['kind'] !== stored.kind) return false;
  if ((value['protocol'] ?? DEFAULTS.protocol) !== stored.protocol || value['protocol'] === null) return false;
  let isRestricted = false;
  for (const key in value) {
    if (key === 'port' || key === 'address' || key === 'kind' || key === 'protocol' || value[key] === undefined) continue;
    if (key !== 'sourceRanges' || !sameNames(stored.sourceRanges, value[key])) return false;
    isRestricted = true;
  }
  return isRestricted === (stored.sourceRanges !== undefined);
}

function sameFrontends(stored: readonly Frontend[], value: Record<string, unknown>): boolean {
  const { address, port, protocol, frontends } = value;
  let next = 0;
  if (address !== undefined || port !== undefined || protocol !== undefined) {
    const first = stored[0]!;
    if (first.kind !== 'cluster' || address !== first.address || port !== first.port) return false;
    if (protocol === undefined ? first.protocol !== DEFAULTS.protocol : protocol !== first.protocol) return false;
    next = 1;
  }
  if (frontends === undefined) return stored.length === next;
  if (!Array.isArray(frontends) || frontends.length !== stored.length - next) return false;
  for (let i = 0; i < frontends.length; i++) if (!sameFrontend(stored[next + i]!, frontends[i])) return false;
  return true;
}

function sameAffinity(stored: number, given: unknown): boolean {
  if (typeof given !== 'object' || given === null) return false;
  const value = given as Record<string, unknown>;
  for (const key in value) if (key !== 'clientIP' && key !== 'timeoutSeconds' && value[key] !== undefined) return false;
  const seconds = value['timeoutSeconds'];
  return value['clientIP'] === true && (seconds === undefined ? DEFAULTS.affinitySeconds : seconds) === stored;
}

function sameLabels(stored: Readonly<Record<string, string>> | undefined, given: unknown): boolean {
  if (stored === undefined || typeof given !== 'object' || given === null || Array.isArray(given)) return false;
  let count = 0;
  for (const key in given) {
    if (!Object.hasOwn(stored, key) || (given as Record<string, unknown>)[key] !== stored[key]) return false;
    count++;
  }
  return count === Object.keys(stored).length;
}

/** Bits of the fields that have a default, as they are met. */
const FIELD = {
  algorithm: 1,
  affinity: 2,
  internalTrafficPolicy: 4,
  externalTrafficPolicy: 8,
  topology: 16,
  onNoBackends: 32,
  labels: 64,
  backends: 128,
  sourceRanges: 256,
  forwarding: 512,
  onBackendRemoved: 1024,
} as const;

/** Bits of the fields of `spec` that are not as they would be if nothing had been said about them. */
function unusualFields(spec: Spec): number {
  let bits = 0;
  if (spec.algorithm !== DEFAULTS.algorithm) bits |= FIELD.algorithm;
  if (spec.affinity !== DEFAULTS.affinity) bits |= FIELD.affinity;
  if (spec.internalTrafficPolicy !== DEFAULTS.internalTrafficPolicy) bits |= FIELD.internalTrafficPolicy;
  if (spec.externalTrafficPolicy !== DEFAULTS.externalTrafficPolicy) bits |= FIELD.externalTrafficPolicy;
  if (spec.topology !== DEFAULTS.topology) bits |= FIELD.topology;
  if (spec.onNoBackends !== DEFAULTS.onNoBackends) bits |= FIELD.onNoBackends;
  if (spec.labels !== undefined) bits |= FIELD.labels;
  if (spec.sourceRanges !== undefined) bits |= FIELD.sourceRanges;
  if (spec.forwarding !== undefined) bits |= FIELD.forwarding;
  if (spec.onBackendRemoved !== DEFAULTS.onBackendRemoved) bits |= FIELD.onBackendRemoved;
  if (spec.backends.length > 0) bits |= FIELD.backends;
  return bits;
}

/** Whether `given`, unchecked, is `stored`. Names are equal already. */
export function isSameSpec(stored: Spec, given: Record<string, unknown>): boolean {
  let seen = 0;
  for (const key in given) {
    const value = given[key];
    if (value === undefined) continue;
    switch (key) {
      case 'name':
      case 'address':
      case 'port':
      case 'protocol':
      case 'frontends':
        continue;
      case 'backends':
        if (!isSameBackends(stored.backends, value)) return false;
        seen |= FIELD.backends;
        continue;
      case 'affinity':
        if (!sameAffinity(stored.affinity, value)) return false;
        seen |= FIELD.affinity;
        continue;
      case 'labels':
        if (!sameLabels(stored.labels, value)) return false;
        seen |= FIELD.labels;
        continue;
      case 'sourceRanges':
        if (!sameNames(stored.sourceRanges, value)) return false;
        seen |= FIELD.sourceRanges;
        continue;
      case 'forwarding':
      case 'algorithm':
      case 'internalTrafficPolicy':
      case 'externalTrafficPolicy':
      case 'topology':
      case 'onNoBackends':
        if (value !== stored[key]) return false;
        seen |= FIELD[key];
        continue;
      case 'onBackendRemoved':
        if (!isEqual(value, stored.onBackendRemoved)) return false;
        seen |= FIELD.onBackendRemoved;
        continue;
      default:
        return false;
    }
  }
  return (unusualFields(stored) & ~seen) === 0 && sameFrontends(stored.frontends, given);
}

function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && isEqual((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key]));
}

const FIELDS: readonly (keyof Spec & keyof ServiceSpec)[] = [
  'frontends',
  'backends',
  'algorithm',
  'affinity',
  'internalTrafficPolicy',
  'externalTrafficPolicy',
  'sourceRanges',
  'topology',
  'forwarding',
  'onNoBackends',
  'onBackendRemoved',
  'labels',
];

/** Names of the fields in which two normal forms differ. */
export function changedFields(before: Spec, after: Spec): string[] {
  return FIELDS.filter((field) => !isEqual(before[field], after[field]));
}

/** Whether two values are the same data: for settings, which are small. */
export { isEqual as isSameData };
