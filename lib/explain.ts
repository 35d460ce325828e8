import { familyOf, fromKernel, isInCidr, isUnspecified } from './addresses.js';
import { isLocal, PROTOCOL_NUMBER, rangesOf } from './compile.js';
import type { Model } from './model.js';
import { FrontendKindCode, type NativeBalancer, type NativeDecision, type NativeQuery } from './native/binding.js';
import type { Dsr } from './packets.js';
import { type Reason, reasons } from './reasons.js';
import type { Spec } from './spec.js';
import { endpointText, reasonName } from './statistics.js';
import type { Decision, Endpoint, FrontendKind, FrontendSpec, Hook, PacketDescription, Protocol, Verdict } from './types.js';
import { checkAddress, checkChoice, checkObject, checkPath, checkPort, Place, PROTOCOLS } from './validate.js';

const VERDICTS: readonly Verdict[] = ['forward', 'pass', 'reject', 'drop'];
const KINDS = Object.keys(FrontendKindCode) as FrontendKind[];
const SCOPE_INTERNAL = 0;
const SCOPE_EXTERNAL = 1;

interface Flow {
  query: NativeQuery;
  protocol: Protocol;
  destination: Endpoint;
  from: 'external' | 'pod' | 'host';
  hook: Hook;
  source: { address: string; port: number | undefined };
}

function checkFlow(value: unknown): Flow {
  const place = new Place('explain');
  const given = checkObject(place, '', value, ['protocol', 'source', 'destination', 'from', 'hook']);
  const protocol = checkChoice(place, 'protocol', given['protocol'], PROTOCOLS);
  const from = checkChoice(place, 'from', given['from'], ['external', 'pod', 'host'] as const);
  const hook = given['hook'] === undefined ? undefined : checkChoice(place, 'hook', given['hook'], ['socket', 'tc', 'xdp'] as const);
  const target = checkObject(place, 'destination', given['destination'], ['address', 'port']);
  const destination = {
    address: checkAddress(place, 'destination.address', target['address']),
    port: checkPort(place, 'destination.port', target['port']),
  };
  const { netns, ...source } = checkSource(place, given['source'], destination);
  if (hook === 'socket' && from === 'external')
    throw place.wrong('hook', "is 'socket', which sees no packets from outside; ask about 'tc' or 'xdp'");
  if (hook === 'xdp' && from !== 'external')
    throw place.wrong('hook', "is 'xdp', which sees only packets from outside; ask about 'socket' or 'tc'");
  if (hook === 'tc' && from === 'host')
    throw place.wrong('hook', "is 'tc', which does not balance what the node itself sends; ask about 'socket'");
  const scope = from === 'external' ? SCOPE_EXTERNAL : SCOPE_INTERNAL;
  const query: NativeQuery = { ...destination, protocol: PROTOCOL_NUMBER[protocol], scope };
  const seenAt = hook ?? (from === 'external' ? 'tc' : 'socket');
  if (seenAt !== 'socket') Object.assign(query, { source: source.address, sourcePort: source.port ?? 0 });
  else if (netns !== undefined) query.netns = netns;
  return { query, protocol, destination, from, hook: seenAt, source };
}

/** Checks the source. A socket hook knows only its namespace: the address is bound later. */
function checkSource(
  place: Place,
  value: unknown,
  destination: Endpoint,
): { address: string; port: number | undefined; netns: string | undefined } {
  const { address, port, netns } = checkObject(place, 'source', value, ['address', 'port', 'netns']);
  const isAny = typeof address === 'string' && isUnspecified(address);
  const source = isAny ? (address as string) : checkAddress(place, 'source.address', address);
  if (familyOf(source) !== familyOf(destination.address)) {
    throw place.invalid('source.address', `be of the family of the destination, ${destination.address}`, address);
  }
  return {
    address: source,
    port: port === undefined || port === 0 ? undefined : checkPort(place, 'source.port', port),
    netns: netns === undefined ? undefined : checkPath(place, 'source.netns', netns),
  };
}

/** Why a packet is dropped before anything is chosen for it. */
function refusal(flow: Flow, answer: NativeDecision, spec: Spec | undefined, model: Model): Reason | undefined {
  if (flow.from !== 'external' || spec === undefined || answer.frontend === undefined) return undefined;
  const { address } = flow.source;
  const { port, kind } = answer.frontend;
  const frontend = spec.frontends.find(
    (one) =>
      KINDS[kind] === one.kind &&
      one.port === port &&
      one.protocol === flow.protocol &&
      (one.address ?? flow.destination.address) === flow.destination.address,
  );
  const ranges = frontend === undefined ? undefined : rangesOf(frontend, spec);
  if (ranges !== undefined && !ranges.some((cidr) => isInCidr(address, cidr))) return 'source-not-allowed';
  const isOurs = model.node?.hostAddresses.includes(address) || [...model.frontends.keys()].some((key) => key.startsWith(`${address} `));
  return isOurs && answer.backend !== undefined ? 'source-is-ours' : undefined;
}

interface Way {
  /** The backend sees another source than the client's: one elsewhere without DSR, and a workload that meets itself. */
  isTranslated: boolean;
  /** Where DSR sends what is for the backend. */
  via: string | undefined;
}

/** How a packet gets to its backend. */
function wayTo(flow: Flow, backend: Endpoint, spec: Spec, model: Model, dsr: Dsr | undefined): Way {
  const hidesAll = flow.from === 'pod' && model.node?.config.masqueradeAll === true;
  if (hidesAll || backend.address === flow.source.address) return { isTranslated: true, via: undefined };
  const known = spec.backends.find(({ address, port }) => address === backend.address && port === backend.port);
  if (flow.from !== 'external' || known === undefined || isLocal(known, model.node)) return { isTranslated: false, via: undefined };
  const mayReturn = dsr?.protocols.includes(flow.protocol) === true && spec.forwarding !== 'snat';
  if (!mayReturn || (dsr.services === 'marked' && spec.forwarding !== 'dsr')) return { isTranslated: true, via: undefined };
  const isWrapped = dsr.dispatch === 'ipip' || dsr.dispatch === 'geneve';
  return { isTranslated: false, via: isWrapped ? known.place?.via : undefined };
}

/** No socket hook runs for SCTP. */
const unseen: NativeDecision = {
  verdict: VERDICTS.indexOf('pass'),
  reason: reasons['not-balanced'].number,
  candidates: [],
  affinity: false,
};

/** Asks the datapath's own selection code. */
export function explain(native: NativeBalancer, model: Model, dsr: Dsr | undefined, packet: PacketDescription): Decision {
  const flow = checkFlow(packet);
  const asked = flow.protocol === 'sctp' && flow.hook === 'socket' ? unseen : native.explain(flow.query);
  const spec = asked.service === undefined ? undefined : model.services.get(asked.service)?.spec;
  const refused = refusal(flow, asked, spec, model);
  const answer: NativeDecision = refused === undefined ? asked : { ...asked, backend: undefined, candidates: [], affinity: false };
  const verdict = refused === undefined ? VERDICTS[answer.verdict]! : 'drop';
  const reason = refused ?? reasonName(answer.reason);
  const decision: Decision = {
    verdict,
    reason,
    candidates: answer.candidates.map(toEndpoint),
    determined: isDetermined(flow, verdict, answer, spec),
    masquerade: false,
    affinity: answer.affinity,
    text: '',
  };
  if (answer.service !== undefined) decision.service = answer.service;
  if (answer.frontend !== undefined) decision.frontend = toFrontend(answer.frontend, flow.protocol);
  if (answer.backend !== undefined) decision.backend = toEndpoint(answer.backend);
  let way: Way | undefined;
  if (flow.hook !== 'socket' && decision.backend !== undefined && spec !== undefined) {
    way = wayTo(flow, decision.backend, spec, model, dsr);
    decision.masquerade = way.isTranslated;
  }
  decision.text = describe(decision, flow, spec, way?.via);
  return decision;
}

function toEndpoint({ address, port }: Endpoint): Endpoint {
  return { address: fromKernel(address), port };
}

function toFrontend(found: { address: string; port: number; kind: number }, protocol: Protocol): FrontendSpec {
  return { kind: KINDS[found.kind]!, ...toEndpoint(found), protocol };
}

/** Clients of a socket hook are namespaces, and the per-socket number of maglev is not known before there is a socket; of a packet it is the source port. */
function isDetermined(flow: Flow, verdict: Verdict, answer: NativeDecision, spec: Spec | undefined): boolean {
  if (verdict !== 'forward' || answer.affinity || answer.candidates.length === 1) return true;
  if (spec === undefined) return false;
  return (
    spec.algorithm === 'source-hash' ||
    (spec.algorithm === 'maglev' && (spec.affinity > 0 || (flow.hook !== 'socket' && flow.source.port !== undefined)))
  );
}

function describe(decision: Decision, flow: Flow, spec: Spec | undefined, via: string | undefined): string {
  const who = { external: 'outside', pod: 'a workload of this node', host: 'the node itself' }[flow.from];
  const what = `${flow.protocol} from ${who} to ${endpointText(flow.destination)}`;
  const { verdict, service, backend, candidates } = decision;
  if (verdict !== 'forward' || backend === undefined) {
    const of = service === undefined ? '' : ` by service '${service}'`;
    const did = { forward: 'is forwarded', pass: 'passes unchanged', reject: 'is rejected', drop: 'is dropped' }[verdict];
    return `${what} ${did}${of}: ${reasons[decision.reason]?.sentence ?? decision.reason}`;
  }
  const way = via === undefined ? '' : ` by way of ${via}`;
  return `${what} goes to ${endpointText(backend)}${way}, ${choice(decision, candidates.length, spec)} of service '${service}'.`;
}

function choice(decision: Decision, count: number, spec: Spec | undefined): string {
  if (count === 1) return 'the only candidate';
  if (decision.affinity) return `kept by affinity, one of ${count} candidates`;
  return `chosen by ${spec?.algorithm ?? 'the service'} among ${count} candidates`;
}
