/** Very many flows (tuples.c) through 50 services that share 24 backends, in both families, by TCP and UDP. */
import { LineProgram } from './lines.js';
import { objects, program } from './program.js';
import type { Variant } from './runner.js';
import { macs, neighbour, networkLines, v4, v6 } from './world.js';

export interface TuplesOptions {
  count: number;
  seed: number;
  variant: Variant;
}

const serviceCount = 50;
/** The n-th backend of a family: on the balancer's device, behind its other one, or on this node. */
const backends = (six: boolean): string[] => [
  ...Array.from({ length: 10 }, (_, i) => (six ? `2001:db8:1::1:${i + 1}` : `192.0.2.${101 + i}`)),
  ...Array.from({ length: 10 }, (_, i) => (six ? `fd01::1:${i + 1}` : `10.1.0.${101 + i}`)),
  ...Array.from({ length: 4 }, (_, i) => (six ? `fd44::1:${i + 1}/local` : `10.244.0.${101 + i}/local`)),
];
const algorithms = 3;

function lines(): string[] {
  return [false, true].flatMap((six) => {
    const all = backends(six);
    return [
      ...neighbour('ext', macs.remote, ...all.slice(0, 10)),
      ...neighbour('inn', macs.inner, ...all.slice(10, 20)),
      ...Array.from({ length: serviceCount }, (_, n) => n).flatMap((n) => {
        // Each backend is in many services, and no two services have the same ones.
        const own = Array.from({ length: 4 + (n % 5) }, (_, i) => all[(n * 7 + i * (1 + (n % 11) * 2)) % all.length] as string);
        const list = [...new Set(own)].map((backend) => backend.replace(/(\/local)?$/, '@8080$1'));
        const address = six ? `2001:db8:5::${(n + 1).toString(16)}` : `203.0.113.${n + 1}`;
        return ['tcp', 'udp'].map((protocol) => `service ${protocol} ${address}@${80 + (n % 3)} ${n % algorithms} 0 0 0 ${list.join(' ')}`);
      }),
    ];
  });
}

/** @returns undefined, or what was found: the packet, what became of it, and which promise that breaks. */
export async function tuples({ count, seed, variant }: TuplesOptions): Promise<string | undefined> {
  // Room for all of them at once, half as much again.
  const sets = 2 ** Math.ceil(Math.log2((1.5 * count) / 7));
  const runner = new LineProgram(program('run'), [objects, variant, String(sets)]);
  try {
    await runner.read();
    for (const line of networkLines()) runner.write(line);
    runner.write(`node ${v4.node} ${v6.node} 10000 59999`);
    for (const line of lines()) runner.write(line);
    runner.write(`tuples ${count} ${seed}`);
    const said: string[] = [];
    for (;;) {
      const line = await runner.read();
      if (line === 'failed') return said.join('\n');
      if (line === 'done') break;
      said.push(line);
    }
    console.log(said.at(-1));
    return undefined;
  } finally {
    await runner.close();
  }
}
