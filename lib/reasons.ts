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
  | 'corrupt-index';

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
]);
