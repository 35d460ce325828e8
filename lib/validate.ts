import { canonicalAddress, canonicalCidr } from './addresses.js';
import { LoadBalancerError } from './errors.js';
import type { Protocol } from './types.js';

/** Which call is being checked, for messages. */
export class Place {
  constructor(
    readonly operation: string,
    public object: string | undefined = undefined,
    /** Of the element of the list that is being checked; -1: there is no list. */
    public index = -1,
  ) {}

  /** `path` must be otherwise: `must` ends the sentence, `value` is what there was. */
  invalid(path: string, must: string, value: unknown): LoadBalancerError {
    return this.wrong(path, `must ${must}, got ${show(value)}`);
  }

  /** The whole argument, or the element of the list, is no object; `what` names it where it has no place. */
  notAnObject(what: string, value: unknown): LoadBalancerError {
    const path = this.index < 0 ? '' : `[${this.index}]`;
    return new LoadBalancerError({
      code: 'ERR_INVALID_ARGUMENT',
      operation: this.operation,
      object: this.object,
      text: `${path || what} must be an object, got ${show(value)}`,
      path: path || undefined,
    });
  }

  /** `text` goes on from the path and says cause and remedy. */
  wrong(path: string, text: string): LoadBalancerError {
    const full = this.index < 0 ? path : `[${this.index}].${path}`;
    return new LoadBalancerError({
      code: 'ERR_INVALID_ARGUMENT',
      operation: this.operation,
      object: this.object,
      // An object that is named says which element it is.
      text: `${this.object === undefined ? full : path} ${text}`,
      path: full,
    });
  }

  unknownKey(path: string, known: readonly string[]): LoadBalancerError {
    return this.wrong(path, `is not a known key; leave it out, or use one of ${known.join(', ')}`);
  }
}

function show(value: unknown): string {
  if (typeof value === 'string') return value.length > 80 ? `${JSON.stringify(value.slice(0, 80))}...` : JSON.stringify(value);
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'bigint') return `${value}n`;
  return String(value);
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Checks that value is an object with no keys but `known`; undefined values count as absent. */
export function checkObject(place: Place, path: string, value: unknown, known: readonly string[]): Record<string, unknown> {
  if (!isObject(value)) throw path ? place.invalid(path, 'be an object', value) : place.notAnObject('the argument', value);
  for (const key in value) {
    if (value[key] !== undefined && !known.includes(key)) throw place.unknownKey(path ? `${path}.${key}` : key, known);
  }
  return value;
}

/** `undefined` as an options argument is no options. */
export function checkOptions(place: Place, value: unknown, known: readonly string[]): Record<string, unknown> {
  if (value === undefined) return {};
  if (!isObject(value)) throw place.invalid('options', 'be an object', value);
  return checkObject(place, '', value, known);
}

export function checkArray(place: Place, path: string, value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw place.invalid(path, 'be an array', value);
  return value;
}

export function checkInteger(place: Place, path: string, value: unknown, low: number, high: number): number {
  if (typeof value !== 'number' || !(value >= low && value <= high) || !Number.isInteger(value)) {
    throw place.invalid(
      path,
      `be ${typeof value === 'number' && !Number.isInteger(value) ? 'a whole number, ' : ''}${low} to ${high}`,
      value,
    );
  }
  return value;
}

export function isPort(value: unknown): value is number {
  return typeof value === 'number' && value >= 1 && value <= 65535 && Number.isInteger(value);
}

export function notAPort(place: Place, path: string, value: unknown): LoadBalancerError {
  return place.invalid(path, 'be 1 to 65535', value);
}

export function checkPort(place: Place, path: string, value: unknown): number {
  if (!isPort(value)) throw notAPort(place, path, value);
  return value;
}

export function checkBoolean(place: Place, path: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw place.invalid(path, 'be true or false', value);
  return value;
}

export const PROTOCOLS: readonly Protocol[] = ['tcp', 'udp', 'sctp'];

/** Checks that value is one of few strings. */
export function checkChoice<T extends string>(place: Place, path: string, value: unknown, choices: readonly T[]): T {
  if (!choices.includes(value as T)) throw place.invalid(path, `be ${listed(choices)}`, value);
  return value as T;
}

function listed(choices: readonly string[]): string {
  const quoted = choices.map((choice) => `'${choice}'`);
  return quoted.length === 1 ? quoted[0]! : `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`;
}

const NAME_BYTES = 253;

/** Checks a name of people's making: of a service, an owner, a node, a zone. */
export function checkName(place: Place, path: string, value: unknown): string {
  if (typeof value !== 'string') throw place.invalid(path, 'be a string', value);
  const length = value.length;
  if (length === 0) throw place.invalid(path, 'not be empty', value);
  let plain = length <= NAME_BYTES;
  for (let i = 0; plain && i < length; i++) {
    const code = value.charCodeAt(i);
    plain = code >= 32 && code < 127;
  }
  return plain ? value : checkUnusualName(place, path, value);
}

function checkUnusualName(place: Place, path: string, value: string): string {
  const bytes = Buffer.byteLength(value);
  if (bytes > NAME_BYTES) throw place.wrong(path, `must be at most ${NAME_BYTES} bytes of UTF-8, has ${bytes}`);
  if (/\p{Cc}|\p{Cs}/u.test(value)) throw place.invalid(path, 'have no control characters and no halves of surrogate pairs', value);
  return value;
}

/** Checks a unicast address and returns its canonical text. */
export function checkAddress(place: Place, path: string, value: unknown): string {
  const address = typeof value === 'string' ? canonicalAddress(value) : undefined;
  if (typeof address !== 'string') throw notAnAddress(place, path, value);
  return address;
}

/** For a value that canonicalAddress refuses. */
export function notAnAddress(place: Place, path: string, value: unknown): LoadBalancerError {
  const address = typeof value === 'string' ? canonicalAddress(value) : undefined;
  return place.invalid(path, typeof address === 'object' ? address.must : 'be an IPv4 or IPv6 address', value);
}

/** Checks a list of ranges and returns their canonical text. */
export function checkCidrs(place: Place, path: string, value: unknown): string[] {
  return checkArray(place, path, value).map((item, i) => {
    const cidr = typeof item === 'string' ? canonicalCidr(item) : { must: 'be a range like 10.0.0.0/8' };
    if (typeof cidr !== 'string') throw place.invalid(`${path}[${i}]`, cidr.must, item);
    return cidr;
  });
}

/** Checks an absolute path of a file system. */
export function checkPath(place: Place, path: string, value: unknown): string {
  if (typeof value !== 'string' || !value.startsWith('/') || value.includes('\0')) throw place.invalid(path, 'be an absolute path', value);
  return value;
}

export function checkSignal(place: Place, path: string, value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof AbortSignal)) throw place.invalid(path, 'be an AbortSignal', value);
  return value;
}
