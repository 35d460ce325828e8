import type { ChildProcess } from 'node:child_process';
import { killGroup } from './launch.js';

export interface RunOptions {
  /** After this time the command and what it has started are killed. Default: none. */
  timeoutMs?: number;
  /** What it reads from standard input. Default: nothing. */
  input?: string;
}

/** A command that `Lab.run` started did not succeed. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly code = 'ERR_COMMAND';
  readonly stdout: string;
  readonly stderr: string;
  /** null: it was killed. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly timedOut: boolean;

  /** @internal */
  constructor(what: string, outcome: CommandOutcome, timeoutMs: number | undefined) {
    const { stdout, stderr, exitCode, signal } = outcome;
    const how =
      timeoutMs !== undefined
        ? `did not end within ${timeoutMs} ms`
        : signal
          ? `was killed by ${signal}`
          : `failed with exit code ${exitCode}`;
    super(`${what} ${how}${stderr.trim() ? `: ${stderr.trim()}` : ''}`);
    this.stdout = stdout;
    this.stderr = stderr;
    this.exitCode = exitCode;
    this.signal = signal;
    this.timedOut = timeoutMs !== undefined;
  }
}

interface CommandOutcome {
  stdout: string;
  stderr: string;
  exitCode: number | null;
  signal: NodeJS.Signals | null;
}

/**
 * What a process that was just launched wrote to standard output, once it has ended well.
 * @param what for messages
 */
export function collectOutput(child: ChildProcess, what: string, { timeoutMs, input }: RunOptions): Promise<string> {
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
    });
  }
  child.stdin?.on('error', () => {}); // a command need not read all of its input
  child.stdin?.end(input);
  return new Promise((resolve, reject) => {
    let timedOut = false;
    const onTimeout = () => {
      timedOut = true;
      killGroup(child);
      child.once('exit', () => {
        // Something that left the process group may hold them open.
        child.stdout?.destroy();
        child.stderr?.destroy();
      });
    };
    const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timeoutMs);
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (exitCode, signal) => {
      clearTimeout(timer);
      if (exitCode === 0 && !timedOut) resolve(output.stdout);
      else reject(new CommandError(what, { ...output, exitCode, signal }, timedOut ? timeoutMs : undefined));
    });
  });
}
