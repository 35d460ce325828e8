import { describe, expect, it, vi } from 'vitest';
import { type Decision, type PacketDescription, reasons, type ServiceSpec } from '../../lib/index.js';
import type { NativeDecision } from '../../lib/native/binding.js';
import { openStub, thrownBy, untyped, WEB } from './open-stub.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

const PACKET: PacketDescription = {
  protocol: 'tcp',
  from: 'pod',
  source: { address: '10.1.0.1' },
  destination: { address: '10.96.0.1', port: 80 },
};
const [first, second] = WEB.backends!;

async function explained(decision: Partial<NativeDecision>, spec: Partial<ServiceSpec> = {}): Promise<Decision> {
  const { lb, native } = await openStub();
  lb.addService({ ...WEB, ...spec });
  native.decision = {
    verdict: 0,
    reason: reasons.forwarded.number,
    service: 'default/web',
    frontend: { address: '10.96.0.1', port: 80, kind: 0 },
    candidates: [first!, second!],
    backend: second!,
    affinity: false,
    ...decision,
  };
  return lb.explain(PACKET);
}

describe('explain', () => {
  it('names what the datapath chose', async () => {
    expect(await explained({})).toStrictEqual({
      verdict: 'forward',
      reason: 'forwarded',
      service: 'default/web',
      frontend: { kind: 'cluster', address: '10.96.0.1', port: 80, protocol: 'tcp' },
      candidates: [first, second],
      backend: second,
      determined: false,
      masquerade: false,
      affinity: false,
      text: "tcp from a workload of this node to 10.96.0.1:80 goes to 10.0.0.2:8080, chosen by random among 2 candidates of service 'default/web'.",
    });
  });

  it('says what passes, is rejected and is dropped', async () => {
    const none = { candidates: [] };
    const { lb, native } = await openStub();
    native.decision = { verdict: 1, reason: reasons['not-a-service'].number, affinity: false, ...none };
    expect(lb.explain(PACKET)).toStrictEqual({
      verdict: 'pass',
      reason: 'not-a-service',
      candidates: [],
      determined: true,
      masquerade: false,
      affinity: false,
      text: `tcp from a workload of this node to 10.96.0.1:80 passes unchanged: ${reasons['not-a-service'].sentence}`,
    });
    native.decision = { verdict: 2, reason: reasons['no-backends'].number, service: 'w', affinity: false, ...none };
    const udp: PacketDescription = {
      protocol: 'udp',
      from: 'host',
      source: { address: '::' },
      destination: { address: 'FD00::1', port: 53 },
    };
    expect(lb.explain(udp).text).toBe(
      `udp from the node itself to [fd00::1]:53 is rejected by service 'w': ${reasons['no-backends'].sentence}`,
    );
    native.decision = { verdict: 3, reason: 63, affinity: false, ...none };
    expect(lb.explain(PACKET)).toMatchObject({ verdict: 'drop', reason: 'reason-63', determined: true });
  });

  it.each<[string, Partial<NativeDecision>, Partial<ServiceSpec>, boolean]>([
    ['random', {}, {}, false],
    ['round-robin', {}, { algorithm: 'round-robin' }, false],
    ['maglev', {}, { algorithm: 'maglev' }, false],
    ['random with affinity, without an entry', {}, { affinity: { clientIP: true } }, false],
    ['maglev with affinity', {}, { algorithm: 'maglev', affinity: { clientIP: true } }, true],
    ['source-hash', {}, { algorithm: 'source-hash' }, true],
    ['an affinity entry', { affinity: true }, { affinity: { clientIP: true } }, true],
    ['one candidate', { candidates: [second!] }, {}, true],
  ])('is determined or not by %s', async (_, decision, spec, determined) => {
    expect((await explained(decision, spec)).determined).toBe(determined);
  });

  it('asks with the namespace, from inside', async () => {
    const { lb, native } = await openStub();
    lb.explain({ ...PACKET, protocol: 'udp', hook: 'socket', source: { address: '0.0.0.0', port: 0, netns: '/run/netns/a' } });
    expect(native.lastQuery).toStrictEqual({ address: '10.96.0.1', port: 80, protocol: 17, scope: 0, netns: '/run/netns/a' });
  });

  it.each<[string, object, string]>([
    ['protocol', { protocol: 'icmp' }, "protocol must be 'tcp', 'udp' or 'sctp'"],
    ['from', { from: 'moon' }, "from must be 'external', 'pod' or 'host'"],
    ['source', { source: undefined }, 'source must be an object'],
    ['source.address', { source: { address: 'x' } }, 'source.address must be an IPv4 or IPv6 address'],
    ['source.address', { source: { address: 'fd00::1' } }, 'be of the family of the destination, 10.96.0.1'],
    ['source.port', { source: { address: '10.0.0.1', port: 65536 } }, 'must be 1 to 65535'],
    ['source.netns', { source: { address: '10.0.0.1', netns: 'a' } }, 'must be an absolute path'],
    ['destination.port', { destination: { address: '10.0.0.1', port: 0 } }, 'must be 1 to 65535, got 0'],
    ['destination.address', { destination: { address: '::ffff:10.0.0.1', port: 1 } }, "write it as IPv4, '10.0.0.1'"],
    ['hook', { hook: 'cgroup' }, "hook must be 'socket', 'tc' or 'xdp'"],
    ['flags', { flags: 'syn' }, 'is not a known key'],
  ])('refuses a wrong %s', async (path, change, text) => {
    const { lb } = await openStub();
    const error = thrownBy(() => lb.explain(untyped({ ...PACKET, ...change })));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', operation: 'explain', path });
    expect(error.message).toContain(text);
  });

  it.each([
    { from: 'external', hook: 'socket' },
    { from: 'pod', hook: 'xdp' },
    { from: 'host', hook: 'tc' },
  ])('refuses what no hook sees: %j', async (change) => {
    const { lb } = await openStub();
    expect(thrownBy(() => lb.explain(untyped({ ...PACKET, ...change })))).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path: 'hook' });
  });
});
