import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LoadedAddon } from '../../lib/native/loader.js';

const root = path.resolve(import.meta.dirname, '../..');

/** A new copy of the module: the first call decides for the whole process. */
async function load(): Promise<LoadedAddon> {
  vi.resetModules();
  return (await import('../../lib/native/loader.js')).loadAddon();
}

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-loader-'));
});
afterEach(() => {
  rmSync(scratch, { recursive: true, force: true });
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

describe('loadAddon', () => {
  it('takes the local build in a checkout', async () => {
    vi.stubEnv('EBPF_LB_ADDON', undefined);
    expect(await load()).toMatchObject({ ok: true, file: path.join(root, 'build/Release/ebpf_lb.node') });
  });

  it('takes the file that EBPF_LB_ADDON names', async () => {
    const file = path.join(root, 'build/Release/ebpf_lb_stop.node');
    vi.stubEnv('EBPF_LB_ADDON', file);
    expect(await load()).toMatchObject({ ok: true, file });
  });

  it('returns a failure for a file that is not there, or is no addon', async () => {
    const file = path.join(scratch, 'broken.node');
    vi.stubEnv('EBPF_LB_ADDON', file);
    expect(await load()).toMatchObject({ ok: false, failure: { code: 'ERR_UNSUPPORTED', operation: 'load', object: file } });
    writeFileSync(file, 'This is no shared library. '.repeat(100));
    expect(await load()).toMatchObject({ ok: false, failure: { message: expect.stringContaining('invalid ELF header') } });
  });

  it('returns a failure on another platform', async () => {
    vi.stubEnv('EBPF_LB_ADDON', undefined);
    vi.spyOn(process, 'platform', 'get').mockReturnValue('darwin');
    expect(await load()).toMatchObject({ ok: false, failure: { code: 'ERR_UNSUPPORTED', details: { feature: 'linux' } } });
  });
});
