import { Changes } from './changes.js';
import { failure, LoadBalancerError } from './errors.js';
import type { Model } from './model.js';
import type { NativeBalancer } from './native/binding.js';
import { normalizeSpec } from './normalize.js';
import { changedFields, isSameSpec } from './same.js';
import { toPublic } from './spec.js';
import type { ApplyPlan, ApplyResult, PlannedChange } from './types.js';
import { checkArray, checkBoolean, checkInteger, checkName, checkOptions, checkSignal, isObject, Place } from './validate.js';

export const DEFAULT_OWNER = 'default';

export interface CheckedApplyOptions {
  owner: string;
  prune: boolean;
  maxRemovals: number;
  signal: AbortSignal | undefined;
}

export function checkApplyOptions(operation: string, value: unknown): CheckedApplyOptions {
  const place = new Place(operation);
  const { owner, prune, maxRemovals, signal } = checkOptions(place, value, ['owner', 'prune', 'maxRemovals', 'signal']);
  return {
    owner: owner === undefined ? DEFAULT_OWNER : checkName(place, 'owner', owner),
    prune: prune === undefined ? true : checkBoolean(place, 'prune', prune),
    maxRemovals: maxRemovals === undefined ? Number.POSITIVE_INFINITY : checkCount(place, maxRemovals),
    signal: checkSignal(place, 'signal', signal),
  };
}

function checkCount(place: Place, value: unknown): number {
  return value === Number.POSITIVE_INFINITY ? value : checkInteger(place, 'maxRemovals', value, 0, Number.MAX_SAFE_INTEGER);
}

let lastMark = 0;

/** Compares what is desired with the model, by value. Nothing is changed. */
export function prepareApply(model: Model, operation: string, desired: unknown, options: CheckedApplyOptions): [Changes, ApplyResult] {
  const list = checkArray(new Place(operation), 'desired', desired);
  const changes = new Changes(model, operation);
  const result: ApplyResult = { added: 0, updated: 0, removed: 0, unchanged: 0 };
  const mark = ++lastMark;
  const added = new Set<string>();
  const place = new Place(operation);
  for (let i = 0; i < list.length; i++) {
    place.object = undefined;
    place.index = i;
    prepareOne(changes, place, list[i], options.owner, mark, added, result);
  }
  if (options.prune) {
    for (const entry of model.services.values()) if (entry.mark !== mark && entry.owner === options.owner) changes.remove(entry);
  }
  result.removed = changes.removals.length;
  return [changes, result];
}

function prepareOne(
  changes: Changes,
  place: Place,
  given: unknown,
  owner: string,
  mark: number,
  added: Set<string>,
  result: ApplyResult,
): void {
  const { model, operation, node } = changes;
  const name = isObject(given) ? given['name'] : undefined;
  const entry = typeof name === 'string' ? model.services.get(name) : undefined;
  if (entry === undefined) {
    const spec = normalizeSpec(place, given, node?.nodePortRange);
    if (added.has(spec.name)) throw namedTwice(place);
    added.add(spec.name);
    changes.put(owner, spec, undefined);
    result.added++;
    return;
  }
  place.object = entry.name;
  if (entry.owner !== owner) {
    const text = `it belongs to owner '${entry.owner}', not '${owner}'; give the service another name, or apply with that owner`;
    throw failure('ERR_NOT_OWNER', operation, entry.name, text);
  }
  if (entry.mark === mark) throw namedTwice(place);
  entry.mark = mark;
  if (!isSameSpec(entry.spec, given as Record<string, unknown>)) {
    const spec = normalizeSpec(place, given, node?.nodePortRange);
    if (changedFields(entry.spec, spec).length > 0) {
      changes.put(owner, spec, entry);
      result.updated++;
      return;
    }
  }
  result.unchanged++;
}

function namedTwice(place: Place): Error {
  return place.wrong('name', 'is there a second time in the list; give each service once');
}

/** @throws ERR_TOO_MANY_REMOVALS */
export function checkRemovals(operation: string, removals: number, maxRemovals: number): void {
  if (removals <= maxRemovals) return;
  throw new LoadBalancerError({
    code: 'ERR_TOO_MANY_REMOVALS',
    operation,
    text: `${removals} services would be removed, and maxRemovals is ${maxRemovals}; see plan() for which, and raise maxRemovals if that is meant`,
    details: { removals, maxRemovals },
  });
}

/** What a commit of `changes` would do. */
export function describePlan(changes: Changes, native: NativeBalancer): ApplyPlan {
  const planned: PlannedChange[] = [];
  for (const { entry, spec, compiled } of changes.puts) {
    planned.push(
      entry === undefined
        ? { action: 'add', service: spec.name, fields: Object.keys(toPublic(spec)).filter((key) => key !== 'name'), movedShare: 0 }
        : { action: 'update', service: spec.name, fields: changedFields(entry.spec, spec), movedShare: native.movedShare(compiled) },
    );
  }
  for (const entry of changes.removals) planned.push({ action: 'remove', service: entry.name, fields: [], movedShare: 1 });
  const { needs, fits } = native.capacity(changes.input());
  const { frontends, backends, cells } = needs;
  return { changes: planned, needs: { frontends, backends, cells, connections: 0, affinities: 0 }, fits };
}
