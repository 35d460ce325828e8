import type { LoadedAddon } from '../../lib/native/loader.js';
import type { StubModule } from './stub-native.js';

/*
 * Takes the place of lib/native/loader.ts. A test file that opens balancers says, for itself:
 *   vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));
 */

export const STUB_FILE = 'stub';

let addon: StubModule | undefined;

/** From here on the package finds this addon, or none. */
export function useAddon(native: StubModule | undefined): void {
  addon = native;
}

export function loadAddon(): LoadedAddon {
  if (addon !== undefined) return { ok: true, native: addon, file: STUB_FILE };
  const message = 'there is no addon; build it';
  return { ok: false, failure: { code: 'ERR_UNSUPPORTED', operation: 'load', message, details: { feature: 'addon' } } };
}

export function packageRoot(): string | undefined {
  return undefined;
}
