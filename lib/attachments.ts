import { failure, fromNative } from './errors.js';
import type { NativeAttach, NativeAttachment, NativeBalancer } from './native/binding.js';
import type { Attachment, CgroupOptions } from './types.js';
import { checkArray, checkChoice, checkObject, checkOptions, checkPath, isObject, Place } from './validate.js';

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

  get kind(): Attachment['kind'] {
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

  async attach(operation: string, what: NativeAttach): Promise<Attachment> {
    const native = await this.#native.attach(what).catch((thrown: unknown) => {
      throw fromNative(thrown, operation, what.target);
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

type Namespaces = NonNullable<CgroupOptions['namespaces']>;

/** Checks the arguments of attachCgroup in both of its forms. */
export function checkCgroupArguments(
  first: string | CgroupOptions | undefined,
  second: Omit<CgroupOptions, 'path'> | undefined,
  root: () => string,
): NativeAttach {
  const place = new Place('attachCgroup', typeof first === 'string' ? first : undefined);
  if (isObject(first) && second !== undefined)
    throw failure('ERR_INVALID_ARGUMENT', 'attachCgroup', undefined, 'options are given twice; give them once');
  const isOneObject = isObject(first);
  const given = isOneObject ? first : second === undefined ? {} : second;
  const options = checkObject(place, '', given, isOneObject ? ['path', 'namespaces'] : ['namespaces']);
  const path: unknown = isOneObject ? first['path'] : first;
  const namespaces = options['namespaces'] === undefined ? 'all' : checkNamespaces(place, options['namespaces']);
  return {
    kind: 'cgroup',
    target: path === undefined ? root() : checkPath(place, 'path', path),
    netns: namespaces === 'all' ? [] : namespaces === 'host' ? [''] : namespaces,
    options: JSON.stringify({ namespaces }),
  };
}

function checkNamespaces(place: Place, value: unknown): Namespaces {
  if (value === 'all' || value === 'host') return value;
  if (!Array.isArray(value)) throw place.invalid('namespaces', "be 'all', 'host' or an array of paths", value);
  const paths = checkArray(place, 'namespaces', value).map((item, i) => checkPath(place, `namespaces[${i}]`, item));
  if (paths.length === 0) throw place.wrong('namespaces', "is empty; leave it out for 'all', or name at least one namespace");
  return paths;
}

/** IFNAMSIZ without its end. */
const DEVICE_NAME_BYTES = 15;

/** Checks the name of a device, or a pattern of names, as the kernel allows them. */
function checkDevice(operation: string, device: unknown): string {
  const place = new Place(operation);
  if (typeof device !== 'string' || device === '')
    throw place.invalid('device', "be the name of a device, or a pattern like 'cni*'", device);
  if (/[\s/:\0]/u.test(device) || device === '.' || device === '..')
    throw place.invalid('device', 'be a name that a device can have', device);
  const isPattern = /[*?]/.test(device);
  if (!isPattern && Buffer.byteLength(device) > DEVICE_NAME_BYTES)
    throw place.invalid('device', `have at most ${DEVICE_NAME_BYTES} bytes`, device);
  return device;
}

function checkNetns(place: Place, value: unknown): string[] {
  return value === undefined ? [] : [checkPath(place, 'netns', value)];
}

export function checkTcArguments(device: unknown, options: unknown): NativeAttach {
  const target = checkDevice('attachTc', device);
  const place = new Place('attachTc', target);
  if (options === undefined)
    throw place.wrong('role', "is missing; it is 'external' for a NIC, 'workload' for the host's side of a workload's device");
  const given = checkObject(place, '', options, ['role', 'netns']);
  const role = checkChoice(place, 'role', given['role'], ['external', 'workload'] as const);
  const netns = checkNetns(place, given['netns']);
  return { kind: 'tc', target, netns, role, options: JSON.stringify({ role }) };
}

export function checkXdpArguments(device: unknown, options: unknown): NativeAttach {
  const target = checkDevice('attachXdp', device);
  const place = new Place('attachXdp', target);
  const given = checkOptions(place, options, ['mode', 'netns']);
  const mode = given['mode'] === undefined ? 'auto' : checkChoice(place, 'mode', given['mode'], ['native', 'generic', 'auto'] as const);
  const netns = checkNetns(place, given['netns']);
  return { kind: 'xdp', target, netns, mode, role: 'external', options: JSON.stringify({ mode }) };
}
