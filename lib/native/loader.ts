import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NativeFailure, NativeModule } from './binding.js';

export type LoadedAddon = { ok: true; native: NativeModule; file: string } | { ok: false; failure: NativeFailure };

let loaded: LoadedAddon | undefined;

/** The addon, loaded at the first call. Never throws: on a system that has none, the package can be imported and only opening fails. */
export function loadAddon(): LoadedAddon {
  loaded ??= load();
  return loaded;
}

/** Directory of this package's package.json, from wherever this module was built or bundled to; undefined when it was bundled away. */
export function packageRoot(): string | undefined {
  for (let directory = path.dirname(fileURLToPath(import.meta.url)); ; directory = path.dirname(directory)) {
    const file = path.join(directory, 'package.json');
    if (existsSync(file)) {
      try {
        if ((JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown }).name === 'ebpf-lb') return directory;
      } catch {
        // Not ours.
      }
    }
    if (directory === path.dirname(directory)) return undefined;
  }
}

function load(): LoadedAddon {
  if (process.platform !== 'linux') return unsupported(`ebpf-lb runs on Linux, this is ${process.platform}`, 'linux');
  const file = findAddon();
  if (file === undefined) {
    const place = `linux-${process.arch}`;
    return unsupported(`there is no addon for ${place}; the package has x64, a checkout is built with 'npm run build'`, place);
  }
  try {
    return { ok: true, native: createRequire(import.meta.url)(file) as NativeModule, file };
  } catch (error) {
    return unsupported(
      `${error instanceof Error ? error.message : String(error)}; the published addon needs glibc 2.34 or newer`,
      'addon',
      file,
    );
  }
}

/** A local build is there only in a checkout, and then it is the newer one. EBPF_LB_ADDON: another file instead (tests of crashes). */
function findAddon(): string | undefined {
  const chosen = process.env['EBPF_LB_ADDON'];
  if (chosen) return path.resolve(chosen);
  const root = packageRoot();
  if (root === undefined) return undefined;
  return [path.join(root, 'build/Release/ebpf_lb.node'), path.join(root, `prebuilds/linux-${process.arch}/ebpf_lb.node`)].find((file) =>
    existsSync(file),
  );
}

function unsupported(message: string, feature: string, object?: string): LoadedAddon {
  const failure: NativeFailure = { code: 'ERR_UNSUPPORTED', operation: 'load', message, details: { feature } };
  if (object !== undefined) failure.object = object;
  return { ok: false, failure };
}
