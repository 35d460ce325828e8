import { failure } from './errors.js';
import { Entry, type Model } from './model.js';
import type { NativeBalancer } from './native/binding.js';
import { type Node, normalizeNode } from './node-config.js';
import { checkDsr, checkFlowIdle, checkMasquerade, type PacketSettings } from './packets.js';
import { readRecord } from './record.js';
import type { Spec } from './spec.js';
import { isObject, Place } from './validate.js';

/** What is kept beside the services. Keys of newer versions are carried along. */
export interface Settings {
  node?: unknown;
  flowIdleSeconds?: unknown;
  dsr?: unknown;
  masquerade?: unknown;
  complete?: unknown;
  [key: string]: unknown;
}

type Snapshot = ReturnType<NativeBalancer['snapshot']>;

/**
 * Makes the model what the maps say. Services that are as before keep their objects.
 * @throws ERR_LAYOUT when something stored cannot be read: to go on without it would lose it. The model is as it was then
 */
export function loadSnapshot(model: Model, snapshot: Snapshot): Settings {
  const settings = readSettings(snapshot.settings);
  const node = settings.node === undefined ? undefined : readNode(settings.node);
  const gone = new Set(model.services.values());
  const news: { entry: Entry | undefined; owner: string; spec: Spec }[] = [];
  for (const { name, owner, record } of snapshot.services) {
    const known = model.services.get(name);
    const entry = known?.owner === owner ? known : undefined;
    if (entry !== undefined) gone.delete(entry);
    if (entry === undefined || entry.record !== record) news.push({ entry, owner, spec: readService(name, record) });
  }
  for (const entry of gone) model.delete(entry);
  // With another node all frontends may be elsewhere.
  for (const entry of model.services.values()) model.release(entry);
  model.node = node;
  for (const { entry, owner, spec } of news) {
    if (entry === undefined) model.services.set(spec.name, new Entry(spec, owner));
    else entry.spec = spec;
  }
  for (const entry of model.services.values()) model.hold(entry);
  return settings;
}

/** Of the packet path. @throws ERR_LAYOUT when they cannot be read */
export function packetSettings({ flowIdleSeconds, dsr, masquerade, complete }: Settings): PacketSettings {
  const place = new Place('open');
  try {
    return {
      flowIdleSeconds: flowIdleSeconds === undefined ? {} : checkFlowIdle(place, 'flowIdleSeconds', flowIdleSeconds),
      dsr: dsr === undefined ? undefined : checkDsr(place, dsr),
      masquerade: masquerade === undefined ? undefined : checkMasquerade(place, masquerade),
      complete: complete === true,
    };
  } catch (error) {
    throw unreadable('the stored settings', error);
  }
}

function readNode(value: unknown): Node {
  try {
    return normalizeNode(new Place('open'), value, 'node');
  } catch (error) {
    throw unreadable('the stored settings', error);
  }
}

function readService(name: string, record: string): Spec {
  try {
    const spec = readRecord(record);
    if (spec.name !== name) throw new Error(`it is of '${spec.name}'`);
    return spec;
  } catch (error) {
    throw unreadable(`the stored record of service '${name}'`, error);
  }
}

function readSettings(text: string | undefined): Settings {
  if (text === undefined || text === '') return {};
  try {
    const settings: unknown = JSON.parse(text);
    if (isObject(settings)) return settings;
    throw new Error('it is no object');
  } catch (error) {
    throw unreadable('the stored settings', error);
  }
}

function unreadable(what: string, error: unknown): Error {
  const cause = error instanceof Error ? error.message : String(error);
  return failure(
    'ERR_LAYOUT',
    'open',
    undefined,
    `${what} cannot be read (${cause}); open the pins with the version that wrote them, or remove them`,
  );
}
