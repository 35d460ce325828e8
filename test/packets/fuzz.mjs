// npm run fuzz -- --packets N [--seed N] [--hook ingress|xdp|all] [--variant current|legacy]
// Random packets through the packet programs; ends with status 1 at the first that breaks a promise, which the same seed finds again.
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runnerImport } from 'vite';

const usage = 'usage: npm run fuzz -- --packets N [--seed N] [--hook ingress|xdp|all] [--variant current|legacy]';

function options() {
  const { values } = parseArgs({
    options: {
      packets: { type: 'string', default: '1000000' },
      seed: { type: 'string', default: String((Date.now() % 1_000_000) + 1) },
      hook: { type: 'string', default: 'all' },
      variant: { type: 'string', default: 'current' },
    },
  });
  const [packets, seed] = [Number(values.packets), Number(values.seed)];
  if (!Number.isSafeInteger(packets) || packets < 1) throw new Error(`--packets must be a whole number from 1, got ${values.packets}`);
  if (!Number.isInteger(seed) || seed < 1 || seed > 0x7fffffff) throw new Error(`--seed must be 1 to ${0x7fffffff}, got ${values.seed}`);
  if (!['ingress', 'xdp', 'all'].includes(values.hook)) throw new Error(`--hook must be ingress, xdp or all, got ${values.hook}`);
  if (!['current', 'legacy'].includes(values.variant)) throw new Error(`--variant must be current or legacy, got ${values.variant}`);
  return { packets, seed, hook: values.hook, variant: values.variant };
}

let chosen;
try {
  chosen = options();
} catch (error) {
  console.error(`fuzz: ${error.message}\n${usage}`);
  process.exit(2);
}
const { module } = await runnerImport(fileURLToPath(new URL('./fuzz.ts', import.meta.url)), { configFile: false, logLevel: 'error' });
console.log(`seed ${chosen.seed}`);
const found = await module.fuzz({ ...chosen, progress: (line) => console.log(line) });
if (found !== undefined) {
  console.error(found);
  process.exitCode = 1;
} else console.log(`${chosen.packets} packets: every one as promised`);
