/** The fuzzer (fuzz.c) in the world of the fixtures, and started from them. */
import { build, type Known } from './build.js';
import { concerns } from './fixtures/index.js';
import { LineProgram } from './lines.js';
import { objects, program } from './program.js';
import { snatPorts, v4, v6, worldLines } from './world.js';

export interface FuzzOptions {
  packets: number;
  seed: number;
  hook?: 'ingress' | 'xdp' | 'all';
  variant?: 'current' | 'legacy';
  progress?: (line: string) => void;
}

/** Any port that a flow may have been given. */
const anyPort = { get: () => snatPorts.low } as unknown as Known;

/** @returns undefined, or what was found: the packet, what became of it, and which promise that breaks. */
export async function fuzz({ packets, seed, hook = 'all', variant = 'current', progress }: FuzzOptions): Promise<string | undefined> {
  const runner = new LineProgram(program('run'), [objects, variant]);
  try {
    await runner.read();
    for (const line of worldLines()) runner.write(line);
    // Ports for the many flows that there are at a time.
    runner.write(`node ${v4.node} ${v6.node} ${snatPorts.low} ${snatPorts.low + 19_999}`);
    for (const fixture of Object.values(concerns).flat())
      for (const { send, hook: entry = 'ingress', device = 'ext' } of fixture.steps)
        runner.write(`seed ${entry} ${device} ${Buffer.from(build(send, anyPort)).toString('hex')}`);
    runner.write(`fuzz ${hook} ${packets} ${seed}`);
    const said: string[] = [];
    for (;;) {
      const line = await runner.read();
      if (line === 'done') return undefined;
      if (line === 'failed') return said.join('\n');
      if (/^\d+ packets, /.test(line)) progress?.(line);
      else said.push(line);
    }
  } finally {
    await runner.close();
  }
}
