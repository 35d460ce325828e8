import { onTestFinished } from 'vitest';
import { LoadBalancer, LoadBalancerError, type OpenOptions, type ServiceSpec } from '../../lib/index.js';
import { loadAddon } from '../../lib/native/loader.js';
import { STUB_FILE, useAddon } from './stub-loader.js';
import { type StubBalancer, StubModule } from './stub-native.js';

export interface Opened {
  lb: LoadBalancer;
  native: StubBalancer;
  module: StubModule;
}

/** A balancer over an addon that keeps its maps in memory. Closed when the test ends. */
export async function openStub(options?: OpenOptions, module = new StubModule()): Promise<Opened> {
  useAddon(module);
  const loaded = loadAddon();
  // Never the real one: it would attach this machine.
  if (!loaded.ok || loaded.file !== STUB_FILE) throw new Error('this test file does not mock lib/native/loader.js; see stub-loader.ts');
  const lb = await LoadBalancer.open(options);
  onTestFinished(() => lb.close().catch(() => {}));
  return { lb, native: module.last, module };
}

/** The error that `call` throws; fails when it throws none, or one of another class. */
export function thrownBy(call: () => unknown): LoadBalancerError {
  let result: unknown;
  try {
    result = call();
  } catch (error) {
    if (error instanceof LoadBalancerError) return error;
    throw error;
  }
  throw new Error(`nothing was thrown; returned ${String(result)}`);
}

/** As thrownBy, for a promise. */
export async function rejectionOf(promise: Promise<unknown>): Promise<LoadBalancerError> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if (!('error' in outcome)) throw new Error(`it resolved to ${String(outcome.value)}`);
  if (outcome.error instanceof LoadBalancerError) return outcome.error;
  throw outcome.error;
}

export const WEB: ServiceSpec = {
  name: 'default/web',
  address: '10.96.0.1',
  port: 80,
  backends: [
    { address: '10.0.0.1', port: 8080 },
    { address: '10.0.0.2', port: 8080 },
    { address: '10.0.0.3', port: 8080 },
  ],
};

/** What JavaScript without types may pass. */
export function untyped<T>(value: unknown): T {
  return value as T;
}
