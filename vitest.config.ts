import { defineConfig } from 'vitest/config';

const fromRoot = (file: string) => new URL(file, import.meta.url).pathname;

/** Acceptance runs (npm run accept) repeat things far more often than everyday ones; emulated kernels (npm run test:kernels) are slower. */
const patience = (process.env['EBPF_LB_FULL'] ? 30 : 1) * Number(process.env['EBPF_LB_SLOW'] ?? 1);

/** A folder of test/: seconds that a test may take, and whether it loads programs into the kernel. */
function folder(name: string, seconds: number, usesKernel: boolean) {
  return {
    extends: true as const,
    test: {
      name,
      include: [`test/${name}/**/*.test.ts`],
      testTimeout: seconds * 1000 * patience,
      hookTimeout: seconds * 1000 * patience,
      ...(usesKernel ? { globalSetup: 'test/require-root.ts' } : {}),
    },
  };
}

export default defineConfig({
  resolve: {
    // Tests import the package by its name and get the sources; test/unit/pack.test.ts is about what is shipped.
    alias: [
      { find: /^ebpf-lb$/, replacement: fromRoot('lib/index.ts') },
      { find: /^ebpf-lb\/lab$/, replacement: fromRoot('lib/lab/index.ts') },
    ],
  },
  test: {
    // Kernel resources (hooks, cgroups, CPU time in measurements) are shared by the whole machine: one file at a time, nothing retried.
    fileParallelism: false,
    retry: 0,
    pool: 'forks',
    passWithNoTests: false,
    projects: [
      folder('unit', 60, false),
      folder('types', 60, false),
      folder('bpf', 60, true),
      folder('anchors', 60, true),
      folder('packets', 60, true),
      folder('lab', 60, true),
      folder('process', 120, true),
    ],
  },
});
