import { familyOf, fromKernel, isUnspecified } from './addresses.js';
import { PROTOCOL_NUMBER } from './compile.js';
import { unsupported } from './errors.js';
import type { Model } from './model.js';
import { FrontendKindCode, type NativeBalancer, type NativeDecision, type NativeQuery } from './native/binding.js';
import { reasons } from './reasons.js';
import type { Spec } from './spec.js';
import { endpointText, reasonName } from './statistics.js';
import type { Decision, Endpoint, FrontendKind, FrontendSpec, PacketDescription, Protocol, Verdict } from './types.js';
import { checkAddress, checkChoice, checkObject, checkPath, checkPort, Place } from './validate.js';

const VERDICTS: readonly Verdict[] = ['forward', 'pass', 'reject', 'drop'];
const PROTOCOLS: readonly Protocol[] = ['tcp', 'udp'];
const KINDS = Object.keys(FrontendKindCode) as FrontendKind[];
const SCOPE_INTERNAL = 0;

interface Flow {
  query: NativeQuery;
  protocol: Protocol;
  destination: Endpoint;
  from: 'pod' | 'host';
}

function checkFlow(value: unknown): Flow {
  const place = new Place('explain');
  const given = checkObject(place, '', value, ['protocol', 'source', 'destination', 'from', 'hook']);
  if (given['from'] === 'external') {
    throw unsupported('explain', undefined, 'packet hooks', "from 'external' needs a packet hook; ask about 'pod' or 'host'");
  }
  if (given['hook'] === 'tc' || given['hook'] === 'xdp') {
    throw unsupported('explain', undefined, 'packet hooks', `there is no ${given['hook']} hook; leave hook out, or ask about 'socket'`);
  }
  const protocol = checkChoice(place, 'protocol', given['protocol'], PROTOCOLS);
  const from = checkChoice(place, 'from', given['from'], ['pod', 'host'] as const);
  if (given['hook'] !== undefined) checkChoice(place, 'hook', given['hook'], ['socket'] as const);
  const target = checkObject(place, 'destination', given['destination'], ['address', 'port']);
  const destination = {
    address: checkAddress(place, 'destination.address', target['address']),
    port: checkPort(place, 'destination.port', target['port']),
  };
  const netns = checkSource(place, given['source'], destination);
  const query: NativeQuery = { ...destination, protocol: PROTOCOL_NUMBER[protocol], scope: SCOPE_INTERNAL };
  if (netns !== undefined) query.netns = netns;
  return { query, protocol, destination, from };
}

/** Checks the source and returns its namespace, the only part of it that a socket hook knows: the address is bound later. */
function checkSource(place: Place, value: unknown, destination: Endpoint): string | undefined {
  const { address, port, netns } = checkObject(place, 'source', value, ['address', 'port', 'netns']);
  const isAny = typeof address === 'string' && isUnspecified(address);
  const source = isAny ? (address as string) : checkAddress(place, 'source.address', address);
  if (familyOf(source) !== familyOf(destination.address)) {
    throw place.invalid('source.address', `be of the family of the destination, ${destination.address}`, address);
  }
  if (port !== undefined && port !== 0) checkPort(place, 'source.port', port);
  return netns === undefined ? undefined : checkPath(place, 'source.netns', netns);
}

/** Asks the datapath's own selection code. */
export function explain(native: NativeBalancer, model: Model, packet: PacketDescription): Decision {
  const flow = checkFlow(packet);
  const answer = native.explain(flow.query);
  const verdict = VERDICTS[answer.verdict]!;
  const reason = reasonName(answer.reason);
  const spec = answer.service === undefined ? undefined : model.services.get(answer.service)?.spec;
  const decision: Decision = {
    verdict,
    reason,
    candidates: answer.candidates.map(toEndpoint),
    determined: isDetermined(verdict, answer, spec),
    masquerade: false,
    affinity: answer.affinity,
    text: '',
  };
  if (answer.service !== undefined) decision.service = answer.service;
  if (answer.frontend !== undefined) decision.frontend = toFrontend(answer.frontend, flow.protocol);
  if (answer.backend !== undefined) decision.backend = toEndpoint(answer.backend);
  decision.text = describe(decision, flow, spec);
  return decision;
}

function toEndpoint({ address, port }: Endpoint): Endpoint {
  return { address: fromKernel(address), port };
}

function toFrontend(found: { address: string; port: number; kind: number }, protocol: Protocol): FrontendSpec {
  return { kind: KINDS[found.kind]!, ...toEndpoint(found), protocol };
}

/** Clients of a socket hook are namespaces, and the per-socket number of maglev is not known before there is a socket. */
function isDetermined(verdict: Verdict, answer: NativeDecision, spec: Spec | undefined): boolean {
  if (verdict !== 'forward' || answer.affinity || answer.candidates.length === 1) return true;
  if (spec === undefined) return false;
  return spec.algorithm === 'source-hash' || (spec.algorithm === 'maglev' && spec.affinity > 0);
}

function describe(decision: Decision, flow: Flow, spec: Spec | undefined): string {
  const who = flow.from === 'pod' ? 'a workload of this node' : 'the node itself';
  const what = `${flow.protocol} from ${who} to ${endpointText(flow.destination)}`;
  const { verdict, service, backend, candidates } = decision;
  if (verdict !== 'forward' || backend === undefined) {
    const of = service === undefined ? '' : ` by service '${service}'`;
    const did = { forward: 'is forwarded', pass: 'passes unchanged', reject: 'is rejected', drop: 'is dropped' }[verdict];
    return `${what} ${did}${of}: ${reasons[decision.reason]?.sentence ?? decision.reason}`;
  }
  return `${what} goes to ${endpointText(backend)}, ${choice(decision, candidates.length, spec)} of service '${service}'.`;
}

function choice(decision: Decision, count: number, spec: Spec | undefined): string {
  if (count === 1) return 'the only candidate';
  if (decision.affinity) return `kept by affinity, one of ${count} candidates`;
  return `chosen by ${spec?.algorithm ?? 'the service'} among ${count} candidates`;
}
