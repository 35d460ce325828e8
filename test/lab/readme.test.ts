import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const readme = readFileSync(path.join(root, 'README.md'), 'utf8');
const blocks = [...readme.matchAll(/<!-- example: ([\w-]+) -->\n```ts\n([\s\S]*?)```/g)];

/** What the block must print. */
const prints: Record<string, RegExp> = {
  'lab-script': /^(.*:808[123]\s*\n\s*){6}$/,
  explain: /^forward forwarded \{ address: '10\.1\.0\.1', port: 8080 \} /,
  controller: /added: 2/,
};

test('[1.8] every program of the README is known here', () => {
  expect(blocks.map(([, name]) => name)).toEqual(Object.keys(prints));
});

test.each(blocks.map(([, name, code]) => ({ name: name ?? '', code: code ?? '' })))(
  '[1.8] README: $name runs as it stands',
  ({ name, code }) => {
    // Inside the checkout, so that `ebpf-lb` means this package as it was built.
    const directory = mkdtempSync(path.join(root, 'build/readme-'));
    try {
      const file = path.join(directory, 'program.mjs');
      writeFileSync(file, code);
      const { stdout, stderr, status } = spawnSync(process.execPath, [file], { encoding: 'utf8' });
      expect(stderr).toBe('');
      expect(status).toBe(0);
      expect(stdout).toMatch(prints[name] ?? /^$/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
);
