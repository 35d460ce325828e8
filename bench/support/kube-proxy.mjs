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

const all = [
  tool('iptables', ['iptables-restore', '--noflush', '--counters'], iptablesRules, iptablesChange, () =>
    run('iptables-restore', [], { input: '*nat\nCOMMIT\n' }),
  ),
  tool('nftables', ['nft', '-f', '-'], nftRules, (_, before, after) => nftChange(before, after), () => run('nft', ['flush', 'ruleset'])),
];
const commandOf = { iptables: 'iptables-restore', nftables: 'nft' };

/** Those that are installed, and the versions of all as sentences. */
export function kubeProxyTools() {
  const tools = all.filter(({ name }) => have(commandOf[name]));
  const notes = all.map(({ name }) => {
    if (!have(commandOf[name])) return `${name}: not installed (${commandOf[name]}), no baseline`;
    return `${name}: ${run(commandOf[name], ['--version']).trim()}`;
  });
  return { tools, notes };
}
