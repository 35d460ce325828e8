import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const run = promisify(execFile);
const require = createRequire(import.meta.url);

interface Entry {
  import: { types: string; default: string };
  require: { types: string; default: string };
}

/** Output of a tool that is expected to say nothing. */
async function complaints(command: string, ...args: string[]): Promise<string> {
  try {
    await run(command, args, { cwd: root });
    return '';
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    return `${stdout}${stderr}` || String(error);
  }
}

describe('sources', () => {
  it('pass the linter', async () => {
    expect(await complaints(path.join(root, 'node_modules/.bin/biome'), 'lint', '--error-on-warnings', '.')).toBe('');
  });

  it('pass the type checker', async () => {
    expect(await complaints(process.execPath, require.resolve('typescript/bin/tsc'), '--noEmit')).toBe('');
  });
});

describe('lock file', () => {
  const text = readFileSync(path.join(root, 'package-lock.json'), 'utf8');

  it('names no package registry', () => {
    expect(text).not.toContain('"resolved"');
  });

  it('has the packages for other platforms, without which npm ci refuses it', () => {
    const { packages } = JSON.parse(text) as { packages: Record<string, { optionalDependencies?: Record<string, string> }> };
    const optional = Object.values(packages).flatMap(({ optionalDependencies = {} }) => Object.keys(optionalDependencies));
    expect(
      optional.filter((name) => !packages[`node_modules/${name}`]),
      'run node scripts/complete-lock.mjs',
    ).toEqual([]);
  });
});

describe('package', () => {
  const { exports } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { exports: Record<string, Entry | string> };

  it.each(Object.entries(exports))('has what it exports as %s', (_, entry) => {
    const files = typeof entry === 'string' ? [entry] : [entry.import, entry.require].flatMap(({ types, default: code }) => [types, code]);
    expect(files.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });
});

describe('eBPF objects', () => {
  const names = readdirSync(path.join(root, 'bpf')).filter((file) => file.endsWith('.bpf.c'));

  it.each(names.flatMap((file) => ['current', 'legacy'].map((variant) => `${path.basename(file, '.bpf.c')}_${variant}`)))(
    '%s has type information and no debug information',
    (name) => {
      const object = readFileSync(path.join(root, `build/bpf/${name}.bpf.o`), 'latin1');
      expect(object).toContain('\0.BTF\0');
      expect(object).not.toContain('.debug_');
      expect(existsSync(path.join(root, `build/bpf/${name}.skel.h`))).toBe(true);
    },
  );
});
