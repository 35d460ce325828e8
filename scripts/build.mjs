// Builds parts of the package in place, each only as far as it is out of date: build.mjs PART...
//   bpf       eBPF objects and skeleton headers      build/bpf
//   addon     the addon (and bpf)                    build/Release/ebpf_lb.node
//   stop      the addon of the kill tests, and       build/Release/ebpf_lb_stop.node
//             what drives its core in a test         build/anchor_model
//   ts        the JavaScript package and its types   dist
//   examples  examples/*.ts, to be run with node     build/examples
// Called through scripts/locked.sh (the npm scripts do), so that two builds never write at once.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(fileURLToPath(import.meta.url), '../..');
const require = createRequire(import.meta.url);
process.chdir(root);

function run(script, ...args) {
  const { status, signal, error } = spawnSync(process.execPath, [script, ...args], { stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) {
    console.error(`build: ${path.basename(script)} ${args.join(' ')} failed (${signal ?? `status ${status}`})`);
    process.exit(1);
  }
}

function files(directory) {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort();
}

/** Runs `build` unless it already succeeded for the same contents of `inputs`. */
async function whenChanged(name, inputs, isThere, build) {
  const stamp = path.join('build', 'stamps', name);
  const hash = createHash('sha256').update(process.version);
  for (const file of inputs) hash.update(`\0${file}\0`).update(readFileSync(file));
  const now = hash.digest('hex');
  if (isThere() && existsSync(stamp) && readFileSync(stamp, 'utf8') === now) return;
  await build();
  mkdirSync(path.dirname(stamp), { recursive: true });
  writeFileSync(stamp, now);
}

// ---- eBPF objects and addon: CMake knows what is out of date ---------------------------------------------------------

/** CMake refuses a build directory that was made elsewhere (a copied checkout) or for another generator. */
function forgetForeignCache() {
  const file = path.join('build', 'CMakeCache.txt');
  if (!existsSync(file)) return;
  const cache = readFileSync(file, 'utf8');
  if (cache.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`) && cache.includes('CMAKE_GENERATOR:INTERNAL=Ninja\n')) return;
  for (const name of ['CMakeCache.txt', 'CMakeFiles', 'build.ninja', 'bpf'])
    rmSync(path.join('build', name), { recursive: true, force: true });
}

function cmake(target) {
  if (process.platform !== 'linux') {
    console.error(`build: the eBPF objects and the addon are built on Linux only, this is ${process.platform}`);
    process.exit(1);
  }
  forgetForeignCache();
  run(
    path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin/cmake-js'),
    'build',
    '--log-level',
    'error',
    '--generator',
    'Ninja',
    '--target',
    target,
  );
}

// ---- the JavaScript package ------------------------------------------------------------------------------------------

/** The ES module of each entry re-exports its CommonJS one. */
function writeModules(dist) {
  for (const entry of Object.values(require('../package.json').exports)) {
    if (typeof entry === 'string') continue;
    const cjs = path.join(dist, path.relative('dist', entry.require.default));
    if (!existsSync(cjs)) continue; // build of a part of the tree
    const names = Object.keys(require(path.resolve(cjs))).filter((name) => name !== '__esModule' && name !== 'default');
    const text = `import cjs from './${path.basename(cjs)}';\nexport const { ${names.join(', ')} } = cjs;\n`;
    writeFileSync(path.join(dist, path.relative('dist', entry.import.default)), text);
  }
}

function buildPackage() {
  // Aside, then swapped in: a program that starts meanwhile finds the old package, a failed build leaves it.
  const [fresh, old] = [path.join('build', 'dist.new'), path.join('build', 'dist.old')];
  for (const directory of [fresh, old]) rmSync(directory, { recursive: true, force: true });
  run(require.resolve('tsup/dist/cli-default.js'), '--out-dir', fresh);
  writeModules(fresh);
  if (existsSync('dist')) renameSync('dist', old);
  renameSync(fresh, 'dist');
  rmSync(old, { recursive: true, force: true });
}

const buildFiles = ['package.json', 'package-lock.json', 'tsconfig.json', 'tsup.config.ts', 'scripts/build.mjs'];

const parts = {
  bpf: () => cmake('bpf'),
  addon: () => cmake('all'),
  stop: () => {
    cmake('ebpf_lb_stop');
    cmake('anchor_model');
  },
  ts: () => whenChanged('ts', [...buildFiles, ...files('lib')], () => existsSync('dist/index.cjs'), buildPackage),
  examples: () =>
    whenChanged(
      'examples',
      [...buildFiles, ...files('examples')],
      () => existsSync('build/examples'),
      async () => {
        const { build } = await import('tsup');
        // Not bundled: `ebpf-lb` stays an import, which Node resolves to this package itself.
        const options = { config: false, entry: ['examples/**/*.ts'], bundle: false, format: 'esm', target: 'node20', clean: true };
        await build({ ...options, outDir: 'build/examples', silent: true });
      },
    ),
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((part) => !(part in parts));
if (wanted.length === 0 || unknown.length > 0) {
  console.error(`usage: build.mjs PART..., where PART is one of ${Object.keys(parts).join(', ')}`);
  process.exit(2);
}
// The target of `addon` includes the objects.
for (const part of wanted) if (part !== 'bpf' || !wanted.includes('addon')) await parts[part]();
