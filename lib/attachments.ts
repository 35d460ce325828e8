import { failure, fromNative } from './errors.js';
import type { NativeAttachment, NativeBalancer } from './native/binding.js';
import type { Attachment, CgroupOptions } from './types.js';
import { checkArray, checkObject, checkPath, isObject, Place } from './validate.js';

/** What an attachment may ask of its balancer. */
interface Keeper {
  /** Throws when the balancer is closed or an observer. */
  beforeChange(operation: string): void;
  isClosed(): boolean;
  changed(attachment: Attachment): void;
}

/** An Attachment as users hold it: one object for each, as long as the balancer is open. */
class AttachmentHandle implements Attachment {
  readonly #list: Attachments;
  #native: NativeAttachment;
  #detaching: Promise<void> | undefined;

  constructor(list: Attachments, native: NativeAttachment) {
    this.#list = list;
    this.#native = native;
  }

  get id(): number {
    return this.#native.id;
  }

  get kind(): 'cgroup' {
    return this.#native.kind;
  }

  get target(): string {
    return this.#native.target;
  }

  get mode(): string {
    return this.#native.mode;
  }

  get state(): Attachment['state'] {
    return this.#native.state;
  }

  detach(): Promise<void> {
    this.#detaching ??= this.#list.detach(this).catch((error: unknown) => {
      this.#detaching = undefined;
      throw error;
    });
    return this.#detaching;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#list.isClosed()) await this.detach();
  }

  toJSON(): object {
    const { id, kind, target, mode, state } = this;
    return { id, kind, target, mode, state };
  }

  /** Takes over what the addon says; returns whether the state is another. */
  update(native: NativeAttachment): boolean {
    const was = this.#native.state;
    this.#native = native;
    return native.state !== was;
  }

  markGone(): void {
    this.#native = { ...this.#native, state: 'lost' };
    this.#detaching = Promise.resolve();
  }
}

/** All attachments of a balancer. */
export class Attachments {
  readonly #native: NativeBalancer;
  readonly #keeper: Keeper;
  readonly #byId = new Map<number, AttachmentHandle>();

  constructor(native: NativeBalancer, keeper: Keeper) {
    this.#native = native;
    this.#keeper = keeper;
    for (const found of native.attachments()) this.#byId.set(found.id, new AttachmentHandle(this, found));
  }

  isClosed(): boolean {
    return this.#keeper.isClosed();
  }

  /** As they are now; says so where a state has changed since. */
  list(): Attachment[] {
    const found = this.#native.attachments();
    const changed = found.filter((native) => this.#take(native)).map(({ id }) => this.#byId.get(id)!);
    const ids = new Set(found.map(({ id }) => id));
    for (const handle of this.#byId.values()) if (!ids.has(handle.id)) changed.push(this.#forget(handle));
    for (const handle of changed) this.#keeper.changed(handle);
    return found.map(({ id }) => this.#byId.get(id)!);
  }

  /** Returns whether there is something new about it. */
  #take(native: NativeAttachment): boolean {
    const known = this.#byId.get(native.id);
    if (known !== undefined) return known.update(native);
    this.#byId.set(native.id, new AttachmentHandle(this, native));
    return true;
  }

  #forget(handle: AttachmentHandle): AttachmentHandle {
    this.#byId.delete(handle.id);
    handle.markGone();
    return handle;
  }

  async attachCgroup({ path, namespaces }: CheckedCgroupOptions): Promise<Attachment> {
    const netns = namespaces === 'all' ? [] : namespaces === 'host' ? [''] : namespaces;
    const native = await this.#native.attachCgroup(path, netns, JSON.stringify({ namespaces })).catch((thrown: unknown) => {
      throw fromNative(thrown, 'attachCgroup', path);
    });
    const isNews = this.#take(native);
    const handle = this.#byId.get(native.id)!;
    if (isNews) this.#keeper.changed(handle);
    return handle;
  }

  async detach(handle: AttachmentHandle): Promise<void> {
    this.#keeper.beforeChange('detach');
    try {
      await this.#native.detach(handle.id);
    } catch (thrown) {
      throw fromNative(thrown, 'detach', handle.target);
    }
    // A reading meanwhile may have noticed first.
    if (this.#byId.get(handle.id) === handle) this.#keeper.changed(this.#forget(handle));
  }

  markAllGone(): void {
    for (const handle of this.#byId.values()) handle.markGone();
  }
}

interface CheckedCgroupOptions {
  path: string;
  namespaces: 'all' | 'host' | string[];
}

/** Checks the arguments of attachCgroup in both of its forms. */
export function checkCgroupArguments(
  first: string | CgroupOptions | undefined,
  second: Omit<CgroupOptions, 'path'> | undefined,
  root: () => string,
): CheckedCgroupOptions {
  const place = new Place('attachCgroup', typeof first === 'string' ? first : undefined);
  if (isObject(first) && second !== undefined)
    throw failure('ERR_INVALID_ARGUMENT', 'attachCgroup', undefined, 'options are given twice; give them once');
  const isOneObject = isObject(first);
  const given = isOneObject ? first : second === undefined ? {} : second;
  const { namespaces } = checkObject(place, '', given, isOneObject ? ['path', 'namespaces'] : ['namespaces']);
  const path: unknown = isOneObject ? first['path'] : first;
  const checked = namespaces === undefined ? 'all' : checkNamespaces(place, namespaces);
  return { path: path === undefined ? root() : checkPath(place, 'path', path), namespaces: checked };
}

function checkNamespaces(place: Place, value: unknown): CheckedCgroupOptions['namespaces'] {
  if (value === 'all' || value === 'host') return value;
  if (!Array.isArray(value)) throw place.invalid('namespaces', "be 'all', 'host' or an array of paths", value);
  const paths = checkArray(place, 'namespaces', value).map((item, i) => checkPath(place, `namespaces[${i}]`, item));
  if (paths.length === 0) throw place.wrong('namespaces', "is empty; leave it out for 'all', or name at least one namespace");
  return paths;
}
