import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const script = path.resolve(import.meta.dirname, '../../scripts/test.mjs');
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(VITEST|EBPF_LB_|NODE_ENV$|TEST$)/.test(name)));

async function test(...args: string[]): Promise<{ status: number; lastLine: string; errors: string }> {
  const { code, stdout, stderr } = await promisify(execFile)(process.execPath, [script, ...args], { env }).then(
    (output) => ({ code: 0, ...output }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  return { status: code, lastLine: stdout.trimEnd().split('\n').at(-1) ?? '', errors: stderr };
}

describe('scripts/test.mjs', () => {
  it('ends with a plain line of counts', async () => {
    const { status, lastLine } = await test('test/unit/generate-reasons.test.ts', '-t', 'has no problems');
    expect(lastLine).toMatch(/^1 passed, 0 failed, \d+ skipped$/);
    expect(status).toBe(0);
  });

  it('fails when no test ran', async () => {
    const { status, lastLine, errors } = await test('test/unit/generate-reasons.test.ts', '-t', 'no such name');
    expect(lastLine).toMatch(/^0 passed, 0 failed, \d+ skipped$/);
    expect(errors).toContain('no test ran');
    expect(status).toBe(1);
  });

  it('counts a runner that could not start as a failure', async () => {
    const { status, lastLine } = await test('--no-such-option');
    expect(lastLine).toBe('0 passed, 1 failed, 0 skipped');
    expect(status).toBe(1);
  });

  it('wants a mark to accept', async () => {
    expect(await test('--accept')).toMatchObject({ status: 2, errors: expect.stringContaining('usage: npm run accept') });
  });
});
