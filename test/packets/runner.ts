import { release } from 'node:os';
import { expect } from 'vitest';
import { reasons } from '../../lib/reasons.js';
import { build } from './build.js';
import { dispatches, type Fixture, type Step, type TcHook } from './fixture.js';
import type { Packet, Port } from './layers.js';
import { LineProgram } from './lines.js';
import { parse } from './parse.js';
import { objects, program } from './program.js';
import { type Device, macs, worldLines } from './world.js';

export type Entry = 'tc' | 'xdp';
export type Variant = 'current' | 'legacy';
/** The builds of the programs that this kernel takes: before 5.12 it refuses atomic instructions that fetch. */
export const variants: Variant[] = isOlderThan(5, 12) ? ['legacy'] : ['current', 'legacy'];

const hooks = { tc: 1, xdp: 2 };
const tcVerdicts: Record<number, string> = { [-1]: 'unspec', 2: 'shot', 7: 'redirect' };
const xdpVerdicts: Record<number, string> = { 1: 'drop', 2: 'pass', 3: 'tx', 4: 'redirect' };

function isOlderThan(major: number, minor: number): boolean {
  const [a = 0, b = 0] = release().split('.').map(Number);
  return a < major || (a === major && b < minor);
}

interface Result {
  verdict: string;
  frame: string;
}

const hexOf = (frame: Uint8Array): string => Buffer.from(frame).toString('hex');
const frameOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));

/** Newer kernels refuse to test-run tc on a frame whose IP header is cut short, which the stack would not let through to it either. */
function isShorterThanIp(frame: Uint8Array): boolean {
  const type = (frame[12]! << 8) | frame[13]!;
  return (type === 0x0800 && frame.length < 34) || (type === 0x86dd && frame.length < 54);
}

/** A packet in a part of which nothing is cut off is that packet. */
const flat = (packet: Packet): Packet =>
  packet.flatMap((layer) => (layer.layer === 'part' && layer.from === undefined && layer.to === undefined ? flat(layer.of) : [layer]));

/** Looks up in what came out the unknowns that are expected there for the first time. */
function learn(expected: Packet, frame: Uint8Array, known: Map<string, number>): void {
  const layers = parse(frame).layers;
  for (const [at, layer] of flat(expected).entries()) {
    if (layer.layer !== 'tcp' && layer.layer !== 'udp' && layer.layer !== 'sctp') continue;
    const came = layers[at];
    if (came?.layer !== layer.layer) continue;
    const pairs: [Port, Port][] = [
      [layer.source, came.source],
      [layer.destination, came.destination],
    ];
    for (const [wanted, got] of pairs) {
      if (typeof wanted === 'number' || typeof got !== 'number' || known.has(wanted.unknown)) continue;
      expect(got, wanted.unknown).toBeGreaterThanOrEqual(wanted.low);
      expect(got, wanted.unknown).toBeLessThanOrEqual(wanted.high);
      for (const [name, other] of known) expect(other, `${wanted.unknown} is that of ${name}`).not.toBe(got);
      known.set(wanted.unknown, got);
    }
  }
}

/** The same bytes; where they differ, first in terms of layers. */
function expectFrame(frame: string, expected: Uint8Array): void {
  if (frame === hexOf(expected)) return;
  expect(parse(frameOf(frame))).toEqual(parse(expected));
  expect(frame).toBe(hexOf(expected));
}

export class Runner {
  readonly #program: LineProgram;
  /** The kernel tells XDP which device a test packet came in by. */
  readonly #knowsXdpDevice: boolean;

  private constructor(program: LineProgram, ready: string) {
    this.#program = program;
    this.#knowsXdpDevice = ready === 'ready 1';
  }

  static async start(variant: Variant): Promise<Runner> {
    const child = new LineProgram(program('run'), [objects, variant]);
    const runner = new Runner(child, await child.read());
    for (const line of worldLines()) child.write(line);
    return runner;
  }

  async close(): Promise<void> {
    await this.#program.close();
  }

  write(line: string): void {
    this.#program.write(line);
  }

  read(): Promise<string> {
    return this.#program.read();
  }

  async packet(hook: TcHook | 'xdp', device: Device, frame: string): Promise<Result> {
    const answer = await this.#program.ask(`packet ${hook} ${device} ${frame}`);
    const [verdict = '', out = ''] = answer.split(' ');
    if (verdict === 'error' && hook !== 'xdp' && isShorterThanIp(frameOf(frame))) return { verdict: 'refused', frame };
    expect(verdict, `the kernel takes a test packet of ${frame.length / 2} bytes: ${answer}`).not.toBe('error');
    const names = hook === 'xdp' ? xdpVerdicts : tcVerdicts;
    return { verdict: names[Number(verdict)] ?? `unknown verdict ${verdict}`, frame: out };
  }

  async counted(entry: Entry, reason: string): Promise<number> {
    const entryOf = reasons[reason as keyof typeof reasons];
    if (!entryOf) throw new Error(`fixture: no such reason: ${reason}`);
    return Number(await this.#program.ask(`counted ${hooks[entry]} ${entryOf.number}`));
  }

  /** From nothing remembered: each packet in order, as it comes in at tc, or in the driver first. */
  async run(fixture: Fixture, entry: Entry): Promise<void> {
    this.#program.write('forget');
    this.#program.write(`dispatch ${dispatches[fixture.dispatch ?? 'ipip']}`);
    const known = new Map<string, number>();
    for (const [i, step] of fixture.steps.entries()) {
      try {
        await this.#step(step, entry, known);
      } catch (error) {
        if (error instanceof Error && fixture.steps.length > 1) error.message = `packet ${i + 1}: ${error.message}`;
        throw error;
      }
    }
  }

  async #step(step: Step, entry: Entry, known: Map<string, number>): Promise<void> {
    const { hook = 'ingress', device = 'ext', reason } = step;
    const frame = hexOf(build(step.send, known));
    const before = reason === undefined ? 0 : (await this.counted('tc', reason)) + (await this.counted('xdp', reason));
    const result = entry === 'xdp' && hook === 'ingress' ? await this.#throughDriver(step, frame, known) : undefined;
    if (result !== 'decided') {
      const { verdict, frame: out } = await this.packet(hook, device, frame);
      const wanted = { unchanged: 'unspec', forward: 'redirect', stack: 'unspec', unwrap: 'unspec', answer: 'redirect', drop: 'shot' }[
        step.outcome
      ];
      if (verdict === 'refused') expect(step.outcome, 'of what tc does not get to see').toBe('unchanged');
      else expect(verdict, 'verdict of tc').toBe(wanted);
      this.#expectOut(step, frame, out, known);
    }
    if (reason !== undefined)
      expect((await this.counted('tc', reason)) + (await this.counted('xdp', reason)), `counted: ${reason}`).toBe(before + 1);
  }

  async #throughDriver(step: Step, frame: string, known: Map<string, number>): Promise<'decided' | 'passed'> {
    const { device = 'ext', outcome } = step;
    const { verdict, frame: out } = await this.packet('xdp', device, frame);
    if (verdict === 'pass') {
      expect(outcome === 'forward' && !step.mayHandOver, 'XDP leaves to tc what it could forward').toBe(false);
      if (outcome === 'unwrap' && out !== frame) {
        this.#expectOut(step, frame, out, known);
        const { verdict: then, frame: untouched } = await this.packet('ingress', device, out);
        expect(then, 'verdict of tc about what XDP has unwrapped').toBe('unspec');
        expectFrame(untouched, frameOf(out));
        return 'decided';
      }
      expectFrame(out, frameOf(frame));
      return 'passed';
    }
    const forward = this.#wayOut(step) === device ? 'tx' : 'redirect';
    const wanted = { unchanged: 'pass', stack: 'pass', unwrap: 'pass', forward, answer: 'tx', drop: 'drop' }[outcome];
    expect(verdict, 'verdict of XDP').toBe(wanted);
    this.#expectOut(step, frame, out, known);
    return 'decided';
  }

  /** The device that the expected packet leaves by: whose MAC address is its source. */
  #wayOut({ out, answer }: Step): Device | undefined {
    if (!this.#knowsXdpDevice) return undefined;
    const link = out ? flat(out)[0] : answer?.[0];
    return (['ext', 'inn', 'small', 'pod'] as const).find((name) => link?.layer === 'ethernet' && link.source === macs[name]);
  }

  #expectOut(step: Step, sent: string, out: string, known: Map<string, number>): void {
    if (step.outcome === 'drop') return;
    if (step.outcome === 'unchanged') {
      expectFrame(out, frameOf(sent));
      return;
    }
    const came = parse(frameOf(out));
    expect(came.problems, 'of the packet that came out').toEqual([]);
    if (step.out) {
      learn(step.out, frameOf(out), known);
      expectFrame(out, build(step.out, known));
    } else if (!step.answer) throw new Error(`fixture: ${step.outcome} needs out or answer`);
    if (step.answer) expect(came.layers).toMatchObject(step.answer);
    if (step.quoted) expect(came.quoted?.slice(0, step.quoted.length)).toMatchObject(step.quoted);
  }
}
