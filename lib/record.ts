import { normalizeSpec } from './normalize.js';
import { type Backend, DEFAULTS, type Frontend, type Spec } from './spec.js';
import { Place } from './validate.js';

/*
 * A record is a spec as JSON with defaults left out, in two parts: the head ends where the value of `backends` begins, so that a change of
 * backends, the most frequent one by far, writes only those anew. Addresses in canonical text need no escapes.
 */

function frontendJson(frontend: Frontend): string {
  let text = `{"kind":"${frontend.kind}"`;
  if (frontend.address !== undefined) text += `,"address":"${frontend.address}"`;
  text += `,"port":${frontend.port}`;
  if (frontend.protocol !== DEFAULTS.protocol) text += `,"protocol":"${frontend.protocol}"`;
  if (frontend.sourceRanges !== undefined) text += `,"sourceRanges":${JSON.stringify(frontend.sourceRanges)}`;
  return `${text}}`;
}

/** The record up to the backends. */
export function recordHead(spec: Spec): string {
  let text = `{"name":${JSON.stringify(spec.name)},"frontends":[`;
  for (let i = 0; i < spec.frontends.length; i++) text += (i === 0 ? '' : ',') + frontendJson(spec.frontends[i]!);
  text += ']';
  if (spec.algorithm !== DEFAULTS.algorithm) text += `,"algorithm":"${spec.algorithm}"`;
  if (spec.affinity !== DEFAULTS.affinity) text += `,"affinity":{"clientIP":true,"timeoutSeconds":${spec.affinity}}`;
  if (spec.internalTrafficPolicy !== DEFAULTS.internalTrafficPolicy) text += `,"internalTrafficPolicy":"${spec.internalTrafficPolicy}"`;
  if (spec.externalTrafficPolicy !== DEFAULTS.externalTrafficPolicy) text += `,"externalTrafficPolicy":"${spec.externalTrafficPolicy}"`;
  if (spec.sourceRanges !== undefined) text += `,"sourceRanges":${JSON.stringify(spec.sourceRanges)}`;
  if (spec.forwarding !== undefined) text += `,"forwarding":"${spec.forwarding}"`;
  if (spec.topology !== DEFAULTS.topology) text += `,"topology":"${spec.topology}"`;
  if (spec.onNoBackends !== DEFAULTS.onNoBackends) text += `,"onNoBackends":"${spec.onNoBackends}"`;
  if (spec.onBackendRemoved !== DEFAULTS.onBackendRemoved) text += `,"onBackendRemoved":${JSON.stringify(spec.onBackendRemoved)}`;
  if (spec.labels !== undefined) text += `,"labels":${JSON.stringify(spec.labels)}`;
  return `${text},"backends":`;
}

function backendJson(backend: Backend): string {
  let text = `{"address":"${backend.address}","port":${backend.port}`;
  if (backend.weight !== DEFAULTS.weight) text += `,"weight":${backend.weight}`;
  if (backend.state !== DEFAULTS.state) text += `,"state":"${backend.state}"`;
  // `{"node":…}` without its first brace; what is undefined is left out.
  if (backend.place !== undefined) return `${text},${JSON.stringify(backend.place).slice(1)}`;
  return `${text}}`;
}

/** The record of a service whose head is known. */
export function makeRecord(head: string, backends: readonly Backend[]): string {
  let text = `${head}[`;
  for (let i = 0; i < backends.length; i++) text += (i === 0 ? '' : ',') + backendJson(backends[i]!);
  text += ']}';
  // A look inside makes one piece of the dozens that it was joined of, which would all be copied by the garbage collector.
  text.charCodeAt(0);
  return text;
}

/** Reads a record back. Throws what JSON.parse or the checks of a spec throw. */
export function readRecord(record: string): Spec {
  return normalizeSpec(new Place('read'), JSON.parse(record), undefined);
}
