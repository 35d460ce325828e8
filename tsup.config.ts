import { defineConfig, type Options } from 'tsup';

// keepNames: an error's class is named in stacks.
const common: Options = { target: 'node20', platform: 'node', silent: true, keepNames: true };

// The implementation is CommonJS only; scripts/build.mjs writes ES modules that re-export it. Two bundles would be two LoadBalancer classes
// in a process that has both `import` and `require` somewhere, and Node 20 cannot require() an ES module.
const code: Options = {
  ...common,
  // *.main.ts: scripts that are run as processes of their own.
  entry: ['lib/index.ts', 'lib/*/index.ts', 'lib/**/*.main.ts'],
  format: 'cjs',
  // What two entries share must exist once, too.
  splitting: true,
  // tsup's own shim for import.meta.url breaks on paths with `#`, `?` or `%`.
  banner: { js: "'use strict';const importMetaUrl = require('node:url').pathToFileURL(__filename).href;" },
  define: { 'import.meta.url': 'importMetaUrl' },
};

const types: Options = {
  ...common,
  entry: ['lib/index.ts', 'lib/*/index.ts'],
  format: ['cjs', 'esm'],
  dts: { only: true },
};

export default defineConfig([code, types]);
