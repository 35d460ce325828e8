// The baselines: the tools that kube-proxy runs, with what it would give them (rules.mjs).
import { have, run } from './process.mjs';
import { iptablesChange, iptablesRules, nftChange, nftRules } from './rules.mjs';

/** Milliseconds that the work takes. */
function timed(work) {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start) / 1e6;
}

const tool = (name, command, rules, change, flush) => ({
  name,
  command,
  /** Loads the rules of all the services, in place of what was there; in another network namespace with `prefix`. Milliseconds. */
  load(services, prefix = []) {
    if (prefix.length === 0) flush();
    const input = rules(services);
    const [program, ...args] = [...prefix, ...command];
    return timed(() => run(program, args, { input }));
  },
  /** Changes service `i` of them from `before` to `after`. Milliseconds. */
  change(services, before, after) {
    const input = change(services, before, after);
    return timed(() => run(command[0], command.slice(1), { input }));
  },
});

/** The older iptables loads many times faster than the one over nf_tables, so it is the fairer baseline. */
const iptables = ['iptables-legacy-restore', 'iptables-restore'].find(have);

const all = [
  tool('iptables', [iptables, '--noflush', '--counters'], iptablesRules, iptablesChange, () =>
    run(iptables, [], { input: '*nat\nCOMMIT\n' }),
  ),
  tool(
    'nftables',
    [have('nft') && 'nft', '-f', '-'],
    nftRules,
    (_, before, after) => nftChange(before, after),
    () => run('nft', ['flush', 'ruleset']),
  ),
];

/** Those that are installed, and what they are as sentences. */
export function kubeProxyTools() {
  const notes = all.map(({ name, command }) =>
    command[0] ? `${name}: ${run(command[0], ['--version']).trim()}` : `${name} is not installed: no baseline`,
  );
  return { tools: all.filter(({ command }) => command[0]), notes };
}
