// Generated from bpf/reasons.json by scripts/generate-reasons.mjs (npm run generate).

/** Why the datapath decided as it did. */
export type Reason =
  | 'forwarded'
  | 'not-a-service'
  | 'other-namespace'
  | 'already-translated'
  | 'no-backends'
  | 'no-backends-drop'
  | 'no-local-backend'
  | 'too-many-services'
  | 'record-failed'
  | 'port-in-use'
  | 'source-not-allowed'
  | 'corrupt-index'
  | 'answered'
  | 'icmp-related'
  | 'echo-answered'
  | 'decapsulated'
  | 'not-balanced'
  | 'handed-over'
  | 'not-a-peer'
  | 'connections-full'
  | 'snat-ports-exhausted'
  | 'no-node-address'
  | 'no-route'
  | 'forwarding-disabled'
  | 'too-big'
  | 'hop-limit'
  | 'fragment-without-first'
  | 'sctp-port'
  | 'dsr-port'
  | 'answer-limited'
  | 'source-is-ours'
  | 'no-such-service'
  | 'no-such-port'
  | 'backend-removed';

export interface ReasonInfo {
  number: number;
  verdict: 'forward' | 'pass' | 'reject' | 'drop';
  sentence: string;
  remedy: string;
}

/** What each reason means and what to do about it. */
export const reasons: Readonly<Record<Reason, ReasonInfo>> = {
  forwarded: {
    number: 1,
    verdict: 'forward',
    sentence: 'The destination is a service and the flow goes to one of its backends.',
    remedy: 'Nothing to do.',
  },
  'not-a-service': {
    number: 2,
    verdict: 'pass',
    sentence: 'No service has this destination address, port and protocol, so the flow went on unchanged.',
    remedy: 'If a service was expected, compare its frontends (address, port, protocol and kind) with the destination.',
  },
  'other-namespace': {
    number: 3,
    verdict: 'pass',
    sentence: 'The attachment does not cover the network namespace of this socket, so the call went on unchanged.',
    remedy: 'Attach the cgroup with namespaces \'all\', or with a list that holds this namespace.',
  },
  'already-translated': {
    number: 4,
    verdict: 'pass',
    sentence: 'An attachment to a nested cgroup has translated this call already, and calls are translated once.',
    remedy: 'Nothing to do; detach one of the two cgroups to save the second look.',
  },
  'no-backends': {
    number: 5,
    verdict: 'reject',
    sentence: 'The service has no backend that takes new flows, so the caller was refused at once.',
    remedy: 'Add a backend of the frontend\'s address family with a weight above 0 that is active, or set onNoBackends to \'drop\' to keep callers waiting.',
  },
  'no-backends-drop': {
    number: 6,
    verdict: 'drop',
    sentence: 'The service has no backend that takes new flows, and its onNoBackends is \'drop\'.',
    remedy: 'Add a backend of the frontend\'s address family with a weight above 0 that is active, or set onNoBackends to \'reject\' to refuse callers at once.',
  },
  'no-local-backend': {
    number: 7,
    verdict: 'drop',
    sentence: 'The traffic policy of the service is Local and none of its backends that take new flows is on this node.',
    remedy: 'Run a backend on this node (its node must equal the name given to setNode), send the traffic to a node that has one, or set the policy to \'Cluster\'.',
  },
  'too-many-services': {
    number: 8,
    verdict: 'drop',
    sentence: 'This unconnected socket talks to more services than can be recorded for one socket.',
    remedy: 'Use a socket for each service, or connect() the socket.',
  },
  'record-failed': {
    number: 9,
    verdict: 'drop',
    sentence: 'The kernel had no memory to record the translation of this socket, without which its answers would bear the backend\'s address.',
    remedy: 'Free memory on this machine, and look at memory limits of the cgroup; the application can try again.',
  },
  'port-in-use': {
    number: 10,
    verdict: 'reject',
    sentence: 'The address and port that the application wants to bind are a node port or host port of a service.',
    remedy: 'Bind another port, or move the service\'s port.',
  },
  'source-not-allowed': {
    number: 11,
    verdict: 'drop',
    sentence: 'The source address is in none of the ranges that the service or its frontend allows.',
    remedy: 'Add the source to sourceRanges, or leave sourceRanges out to allow everybody.',
  },
  'corrupt-index': {
    number: 12,
    verdict: 'drop',
    sentence: 'An index read from the maps is out of range, which is a defect: of this library, or of a program that wrote to its maps.',
    remedy: 'Run `ebpf-lb verify`, and report what it says.',
  },
  answered: {
    number: 13,
    verdict: 'forward',
    sentence: 'The packet is an answer of a backend and went on to the client with the service address as its source.',
    remedy: 'Nothing to do.',
  },
  'icmp-related': {
    number: 14,
    verdict: 'forward',
    sentence: 'The ICMP message is about a connection through a service and went to the end that it concerns, with the packet in it translated back.',
    remedy: 'Nothing to do.',
  },
  'echo-answered': {
    number: 15,
    verdict: 'forward',
    sentence: 'An echo request to a service address was answered here.',
    remedy: 'Nothing to do.',
  },
  decapsulated: {
    number: 16,
    verdict: 'forward',
    sentence: 'An encapsulated packet of a peer was unwrapped and went to a backend of this node.',
    remedy: 'Nothing to do.',
  },
  'not-balanced': {
    number: 17,
    verdict: 'pass',
    sentence: 'The packet is none that can belong to a service: not IPv4 or IPv6, another protocol, or cut short. It went on unchanged.',
    remedy: 'Nothing to do.',
  },
  'handed-over': {
    number: 18,
    verdict: 'pass',
    sentence: 'XDP cannot handle this packet (it is for a local backend, has no known neighbour, or needs what only tc can do), so it went on to tc and the stack.',
    remedy: 'Nothing to do; when it is frequent, look at the neighbour entries of the next hops.',
  },
  'not-a-peer': {
    number: 19,
    verdict: 'pass',
    sentence: 'An encapsulated packet came from an address that is none of the peers, so it was not unwrapped.',
    remedy: 'Add the address of the sending load balancer to the peers of enableDSR.',
  },
  'connections-full': {
    number: 20,
    verdict: 'drop',
    sentence: 'The table of connections has no place for a new connection: the ways that it may use are held by established ones.',
    remedy: 'Open with a larger capacity.connections.',
  },
  'snat-ports-exhausted': {
    number: 21,
    verdict: 'drop',
    sentence: 'No source port was free for a new connection to this backend.',
    remedy: 'Widen snatPortRange, or add backends, or use DSR.',
  },
  'no-node-address': {
    number: 22,
    verdict: 'drop',
    sentence: 'The source has to become an address of this node, and none of this family is known.',
    remedy: 'Give setNode an address of this family.',
  },
  'no-route': {
    number: 23,
    verdict: 'drop',
    sentence: 'The routing table has no way to the backend or the client.',
    remedy: 'Look at: ip route get ADDRESS.',
  },
  'forwarding-disabled': {
    number: 24,
    verdict: 'drop',
    sentence: 'IP forwarding is off on the device that the packet came in by.',
    remedy: 'Turn it on: sysctl net.ipv4.conf.DEVICE.forwarding=1, net.ipv6.conf.DEVICE.forwarding=1.',
  },
  'too-big': {
    number: 25,
    verdict: 'drop',
    sentence: 'The packet does not fit through the way to the backend or the client and may not be fragmented; its sender was told the size that does.',
    remedy: 'Nothing to do when path MTU discovery works; otherwise raise the MTU between the load balancer and the backends.',
  },
  'hop-limit': {
    number: 26,
    verdict: 'drop',
    sentence: 'The packet has made as many hops as it may; its sender was told.',
    remedy: 'Nothing to do for traceroute; otherwise look for a routing loop.',
  },
  'fragment-without-first': {
    number: 27,
    verdict: 'drop',
    sentence: 'A later fragment came without its first one, which has the ports.',
    remedy: 'Nothing to do for a single packet; otherwise look for fragments that take different ways.',
  },
  'sctp-port': {
    number: 28,
    verdict: 'drop',
    sentence: 'An SCTP packet came in fragments and needs other ports, which its checksum covers together with all the rest of it.',
    remedy: 'Let senders of SCTP find out the path MTU, as they do by default, or give the backends of SCTP frontends the port of the frontend.',
  },
  'dsr-port': {
    number: 29,
    verdict: 'drop',
    sentence: 'The backend\'s port is another than the frontend\'s, and the DSR dispatch \'l2\' leaves packets as they are.',
    remedy: 'Give the backends the port of the frontend, or use the dispatch \'ipip\'.',
  },
  'answer-limited': {
    number: 30,
    verdict: 'drop',
    sentence: 'The packet was to be refused with a TCP reset or an ICMP error, and more of these were due than are sent in a second.',
    remedy: 'Look for what sends so much to a service without backends, or with so few hops or so great packets; the limit is no setting.',
  },
  'source-is-ours': {
    number: 31,
    verdict: 'drop',
    sentence: 'The packet came from outside with a source that is a service address, this node\'s own, or nobody\'s.',
    remedy: 'Look for who sends it; whoever drops such sources at the edge (RFC 3704) does not see them here.',
  },
  'no-such-service': {
    number: 32,
    verdict: 'drop',
    sentence: 'The address is in the node\'s serviceCIDRs, and no service has it.',
    remedy: 'Add the service, or take the range that is not services\' alone out of serviceCIDRs.',
  },
  'no-such-port': {
    number: 33,
    verdict: 'reject',
    sentence: 'The address is a service\'s and in the node\'s serviceCIDRs, and no service has this port of it by this protocol.',
    remedy: 'Use a port and protocol of the service, or add a frontend with these to it.',
  },
  'backend-removed': {
    number: 34,
    verdict: 'reject',
    sentence: 'The connection\'s backend was removed, and onBackendRemoved of its service ends such connections.',
    remedy: 'Connect again; to let connections end by themselves, set onBackendRemoved to \'keep\'.',
  },
};

/** The reason that a number in the maps and events stands for. */
export const reasonByNumber: ReadonlyMap<number, Reason> = new Map([
  [1, 'forwarded'],
  [2, 'not-a-service'],
  [3, 'other-namespace'],
  [4, 'already-translated'],
  [5, 'no-backends'],
  [6, 'no-backends-drop'],
  [7, 'no-local-backend'],
  [8, 'too-many-services'],
  [9, 'record-failed'],
  [10, 'port-in-use'],
  [11, 'source-not-allowed'],
  [12, 'corrupt-index'],
  [13, 'answered'],
  [14, 'icmp-related'],
  [15, 'echo-answered'],
  [16, 'decapsulated'],
  [17, 'not-balanced'],
  [18, 'handed-over'],
  [19, 'not-a-peer'],
  [20, 'connections-full'],
  [21, 'snat-ports-exhausted'],
  [22, 'no-node-address'],
  [23, 'no-route'],
  [24, 'forwarding-disabled'],
  [25, 'too-big'],
  [26, 'hop-limit'],
  [27, 'fragment-without-first'],
  [28, 'sctp-port'],
  [29, 'dsr-port'],
  [30, 'answer-limited'],
  [31, 'source-is-ours'],
  [32, 'no-such-service'],
  [33, 'no-such-port'],
  [34, 'backend-removed'],
]);
