// What the figures are to reach. Ratios are over what README.md calls direct, measured in the same run.

const connect = (figure, most, text) => ({ question: 'connect', figure, most, text });
const counts = [1, 100, 1_000, 10_000, 100_000];
const many = (count) => `${count.toLocaleString('en')} service${count === 1 ? '' : 's'}`;

export const goals = [
  ...counts.map((count) => connect(`hot.${count}.ratio`, 1.15, `UDP connect() over direct, hot row, ${many(count)}`)),
  connect('hot.flat.ratio', 1.05, 'the same, dearest over cheapest number of services'),
  connect('random.10000.ratio', 1.28, 'UDP connect() over direct, random rows of 10,000'),
  connect('none.10000.ratio', 1.05, 'UDP connect() over direct, an address that is no service'),

  { question: 'tcp-connect', figure: 'hot.ratio', most: 1.035, text: 'TCP connect() of a new socket over direct, hot row' },
  { question: 'tcp-connect', figure: 'random.ratio', most: 1.07, text: 'TCP connect() of a new socket over direct, random rows of 10,000' },
  { question: 'tcp-connect', figure: 'wrong', most: 0, text: 'connections whose getpeername() is not the service address' },

  { question: 'requests', figure: 'ebpf-lb.ratio', least: 0.97, text: 'TCP requests a second over direct, 1,000 services' },

  ...[1, 100, 1_000, 10_000].map((count) => ({
    question: 'set-backends',
    figure: `random3.${count}.us`,
    most: 10,
    text: `setBackends() of 3 backends, ${many(count)}, µs`,
  })),
  { question: 'set-backends', figure: 'maglev100.us', most: 1_000, text: 'setBackends() of 100 backends with Maglev, µs' },

  { question: 'apply', figure: 'empty.10000.ms', most: 150, text: 'apply() of 10,000 services x 3 backends from empty, ms' },
  { question: 'apply', figure: 'empty.10000.pinned.ms', most: 150, text: 'the same, pinned' },
  { question: 'apply', figure: 'change.10000.ms', most: 25, text: 'apply() of 10,000 services with one change, ms' },
  { question: 'apply', figure: 'change.10000.pinned.ms', most: 25, text: 'the same, pinned' },

  { question: 'memory', figure: 'service.ipv4.bytes', most: 250, text: 'kernel memory for each IPv4 service with 3 backends, bytes' },
  {
    question: 'memory',
    figure: 'fixed.routing.bytes',
    most: 8 * 1024 * 1024,
    text: 'kernel memory of frontends, slots, table and backends at the default capacity, bytes',
  },
  { question: 'memory', figure: 'maglev.needlessMoves.percent', most: 2, text: 'needless moves when one of 10 Maglev backends goes, %' },
  {
    question: 'memory',
    figure: 'maglev.table.bytes',
    most: 16 * 1024 * 1024,
    text: 'Maglev cells with anchors, 1,000 services x 10 backends, bytes',
  },

  { question: 'xdp', figure: 'dsr.one.1.ns', most: 60, text: 'XDP, DSR by IP in IP above the floor, one flow, ns' },
  { question: 'xdp', figure: 'dsr.64k.1000.ns', most: 75, text: 'XDP, DSR by IP in IP above the floor, 64k flows over 1,000 services, ns' },
  { question: 'xdp', figure: 'snat.one.1.ns', most: 200, text: 'XDP, SNAT above the floor, one flow, ns' },

  { question: 'lookups', figure: 'wrong', most: 0, text: 'lookups that saw a torn, a missing or a wrong row' },
];

/** Goals about these results that are not reached, each with its `value`; one that was asked but not measured counts as missed. */
export function missed(results) {
  return goals
    .filter(({ question }) => question in results)
    .map((goal) => ({ ...goal, value: results[goal.question][goal.figure] }))
    .filter(({ value, most, least }) => !(value <= (most ?? Infinity) && value >= (least ?? -Infinity)));
}

export const goalOf = (question, figure) => goals.find((goal) => goal.question === question && goal.figure === figure);
