import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';

const helpers = new Set<ChildProcess>();
const longestWaitMs = 5000;

/**
 * A process that ends by itself or with process.exit() waits for its helpers, so that nothing is left when it has ended. When it ends in
 * any other way the helper does its work just after.
 * @returns a function that takes this back
 */
export function removeAtExit(helper: ChildProcess): () => void {
  if (helpers.size === 0) process.on('exit', waitForHelpers);
  helpers.add(helper);
  return () => {
    helpers.delete(helper);
    if (helpers.size === 0) process.off('exit', waitForHelpers);
  };
}

/** Nothing asynchronous happens any more here. */
function waitForHelpers(): void {
  const deadline = Date.now() + longestWaitMs;
  const clock = new Int32Array(new SharedArrayBuffer(4));
  for (const helper of helpers) helper.kill('SIGTERM');
  for (const helper of helpers) while (isRunning(helper.pid) && Date.now() < deadline) Atomics.wait(clock, 0, 0, 2);
}

/** A child that has ended is a zombie until the event loop sees it, which it will not. */
function isRunning(pid: number | undefined): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
