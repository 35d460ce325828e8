import { release } from 'node:os';
import { fromNative, LoadBalancerError } from './errors.js';
import type { NativeBalancer, NativeModule, NativeOpenOptions } from './native/binding.js';
import { loadAddon } from './native/loader.js';
import type { CheckedOpenOptions } from './options.js';
import type { KernelFeatures } from './types.js';

/** The addon. @throws ERR_UNSUPPORTED where there is none */
export function requireAddon(operation: string): NativeModule {
  const addon = loadAddon();
  if (!addon.ok) throw fromNative(addon.failure, operation);
  return addon.native;
}

/** What probe() says; never throws. */
export function probeKernel(): KernelFeatures {
  const kernel = release();
  try {
    const addon = loadAddon();
    if (!addon.ok) return { kernel, usable: false, missing: [addon.failure.message], features: {} };
    return addon.native.probe();
  } catch (error) {
    return { kernel, usable: false, missing: [error instanceof Error ? error.message : String(error)], features: {} };
  }
}

/** How long a wait for the lock may go on after its signal was aborted. */
const SLICE_MS = 100;

/**
 * Opens the maps. The addon waits for the lock on a worker thread and cannot be stopped there, so with a signal it waits in slices.
 * When this rejects, nothing is left open.
 */
export async function openNative({ native: options, signal }: CheckedOpenOptions): Promise<NativeBalancer> {
  const addon = requireAddon('open');
  signal?.throwIfAborted();
  if (signal === undefined || options.lockTimeoutMs <= SLICE_MS) return closeIfAborted(await openOnce(addon, options), signal);
  const deadline = Date.now() + options.lockTimeoutMs;
  for (;;) {
    const left = deadline - Date.now();
    try {
      const native = await openOnce(addon, { ...options, lockTimeoutMs: Math.max(0, Math.min(SLICE_MS, left)) });
      return await closeIfAborted(native, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof LoadBalancerError) || error.code !== 'ERR_LOCKED' || left <= SLICE_MS) throw error;
    }
  }
}

async function openOnce(addon: NativeModule, options: NativeOpenOptions): Promise<NativeBalancer> {
  try {
    return await addon.open(options);
  } catch (thrown) {
    throw fromNative(thrown, 'open', options.pinPath);
  }
}

async function closeIfAborted(native: NativeBalancer, signal: AbortSignal | undefined): Promise<NativeBalancer> {
  if (!signal?.aborted) return native;
  await native.close(false);
  throw signal.reason;
}
