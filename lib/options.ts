import type { NativeOpenOptions } from './native/binding.js';
import { type Node, normalizeNode } from './node-config.js';
import { checkFlowIdle, type FlowIdle } from './packets.js';
import type { Capacity } from './types.js';
import { checkBoolean, checkInteger, checkObject, checkOptions, checkPath, checkSignal, Place } from './validate.js';

const KEYS = ['pinPath', 'readonly', 'netns', 'capacity', 'flowIdleSeconds', 'node', 'lockTimeoutMs', 'signal'];

/** Indices of frontends and backends have 20 bits, and 0 is none. */
const INDEX_MAX = 2 ** 20 - 1;
const CELLS_MAX = 2 ** 27;
/** setTimeout's own limit, 24 days. */
const TIMEOUT_MAX = 2 ** 31 - 1;

const DEFAULT_CAPACITY: Capacity = { frontends: 65536, backends: 65536, cells: 524288, connections: 65536, affinities: 65536 };

export interface CheckedOpenOptions {
  native: NativeOpenOptions;
  node: Node | undefined;
  flowIdleSeconds: FlowIdle | undefined;
  signal: AbortSignal | undefined;
}

function checkCapacity(place: Place, value: unknown): Capacity {
  const capacity = { ...DEFAULT_CAPACITY };
  if (value === undefined) return capacity;
  const keys = Object.keys(capacity) as (keyof Capacity)[];
  const given = checkObject(place, 'capacity', value, keys);
  for (const key of keys) {
    if (given[key] !== undefined)
      capacity[key] = checkInteger(place, `capacity.${key}`, given[key], 1, key === 'cells' ? CELLS_MAX : INDEX_MAX);
  }
  return capacity;
}

export function checkOpenOptions(value: unknown): CheckedOpenOptions {
  const place = new Place('open');
  const given = checkOptions(place, value, KEYS);
  const readonly = given['readonly'] === undefined ? false : checkBoolean(place, 'readonly', given['readonly']);
  const native: NativeOpenOptions = {
    readonly,
    capacity: checkCapacity(place, given['capacity']),
    lockTimeoutMs: given['lockTimeoutMs'] === undefined ? 0 : checkInteger(place, 'lockTimeoutMs', given['lockTimeoutMs'], 0, TIMEOUT_MAX),
  };
  if (given['pinPath'] !== undefined) native.pinPath = checkPath(place, 'pinPath', given['pinPath']);
  if (given['netns'] !== undefined) native.netns = checkPath(place, 'netns', given['netns']);
  if (readonly && native.pinPath === undefined) throw place.wrong('readonly', 'needs pinPath, the directory to observe; give pinPath');
  if (readonly && given['node'] !== undefined) throw place.wrong('node', 'is for the one writer; leave it out with readonly');
  if (readonly && given['flowIdleSeconds'] !== undefined) {
    throw place.wrong('flowIdleSeconds', 'is for the one writer; leave it out with readonly');
  }
  const flowIdleSeconds =
    given['flowIdleSeconds'] === undefined ? undefined : checkFlowIdle(place, 'flowIdleSeconds', given['flowIdleSeconds']);
  const node = given['node'] === undefined ? undefined : normalizeNode(place, given['node'], 'node');
  return { native, node, flowIdleSeconds, signal: checkSignal(place, 'signal', given['signal']) };
}
