// The clients of the demo, inside of the lab: new connections all the time, each with one request, and one connection that is kept.
// traffic.js TARGETS, as JSON; a Report as a line of JSON five times a second; ends when its standard input does.
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { Agent, get, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';

export type Kind = 'TCP over IPv4' | 'TCP over IPv6' | 'UDP over IPv4' | 'UDP over IPv6';
export interface Target {
  kind: Kind;
  address: string;
  port: number;
}
/** Since the last report. */
export interface Report {
  /** `address:port` of who answered. */
  answers: { kind: Kind; from: string; count: number }[];
  lost: { kind: Kind; why: string }[];
  /** UDP questions that were asked a second time, as resolvers do. */
  askedAgain: number;
  kept: { from: string; requests: number; broken: boolean };
}

const parallel = 3;
const pauseMs = 5;
const patienceMs = 5000;

const targets: Target[] = JSON.parse(process.argv[2] ?? '[]');
let report: Report = { answers: [], lost: [], askedAgain: 0, kept: { from: '', requests: 0, broken: false } };
let running = true;

/** One request: over a connection of its own, or over one of the pool. */
async function askHttp({ address, port }: Target, pool: Agent | false): Promise<{ from: string; reused: boolean }> {
  const request = get({ host: address, port, agent: pool });
  const timer = setTimeout(() => request.destroy(new Error(`no answer within ${patienceMs} ms`)), patienceMs);
  try {
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    return { from: (await text(response)).trim(), reused: request.reusedSocket };
  } finally {
    clearTimeout(timer);
  }
}

async function askUdp(target: Target): Promise<string> {
  try {
    return await askUdpOnce(target, 1000);
  } catch {
    // A connected UDP socket is told when its backend is gone: connect again.
    report.askedAgain++;
    return askUdpOnce(target, patienceMs);
  }
}

function askUdpOnce({ kind, address, port }: Target, timeoutMs: number): Promise<string> {
  const socket = createSocket(kind === 'UDP over IPv6' ? 'udp6' : 'udp4');
  const answer = new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    socket.once('close', () => clearTimeout(timer));
    socket.once('error', reject);
    socket.once('message', (message) => resolve(message.toString().split(' ')[0] ?? ''));
    socket.connect(port, address, () => socket.send('hello'));
  });
  return answer.finally(() => socket.close());
}

async function askForever(target: Target): Promise<void> {
  const ask = async () => (target.kind.startsWith('TCP') ? (await askHttp(target, false)).from : askUdp(target));
  while (running) {
    try {
      const from = await ask();
      const known = report.answers.find((answer) => answer.kind === target.kind && answer.from === from);
      if (known) known.count++;
      else report.answers.push({ kind: target.kind, from, count: 1 });
    } catch (error) {
      report.lost.push({ kind: target.kind, why: messageOf(error) });
    }
    await delay(pauseMs);
  }
}

/** One connection, with a request every now and then. */
async function keepConnection(target: Target): Promise<void> {
  const pool = new Agent({ keepAlive: true, maxSockets: 1 });
  try {
    while (running) {
      const { from, reused } = await askHttp(target, pool);
      if (!reused && report.kept.requests > 0) throw new Error('was closed');
      report.kept = { from, requests: report.kept.requests + 1, broken: false };
      await delay(100);
    }
  } catch (error) {
    report.kept.broken = true;
    report.lost.push({ kind: target.kind, why: `the kept connection: ${messageOf(error)}` });
  }
  pool.destroy();
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

function sendReport(): void {
  process.stdout.write(`${JSON.stringify(report)}\n`);
  report = { ...report, answers: [], lost: [], askedAgain: 0 };
}

process.stdin.resume().once('end', () => {
  running = false;
});
const timer = setInterval(sendReport, 200);
const kept = targets.filter(({ kind }) => kind === 'TCP over IPv4').slice(0, 1);
await Promise.all([
  ...targets.flatMap((target) => Array.from({ length: parallel }, () => askForever(target))),
  ...kept.map(keepConnection),
]);
clearInterval(timer);
sendReport();
