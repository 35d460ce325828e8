// Puts the built addon and the system libraries that it needs into prebuilds/, so that the published package runs without any of them installed.
// bundle.mjs [DIRECTORY]: into DIRECTORY instead of prebuilds/.
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(fileURLToPath(import.meta.url), '../..');
const target = path.join(path.resolve(process.argv[2] ?? path.join(root, 'prebuilds')), `linux-${process.arch}`);
const addon = path.join(root, 'build/Release/ebpf_lb.node');

/** What glibc's own loader resolves; the names are sonames. libc, libstdc++ and the like are Node's own needs too, so they are there. */
const bundled = /^(libbpf|libelf|libz|libzstd)\.so\.\d+$/;

if (!existsSync(addon)) {
  console.error(`bundle: ${path.relative(root, addon)} is missing: run npm run build first`);
  process.exit(1);
}

const libraries = execFileSync('ldd', [addon], { encoding: 'utf8' })
  .split('\n')
  .map((line) => /^\s*(\S+) => (\/\S+)/.exec(line))
  .filter((match) => match && bundled.test(match[1]))
  .map(([, name, file]) => ({ name, file: realpathSync(file) }));

for (const needed of ['libbpf.so.1', 'libelf.so.1', 'libz.so.1']) {
  if (!libraries.some(({ name }) => name === needed))
    throw new Error(`bundle: the addon does not use ${needed}: what is linked has changed`);
}

/** The copyright file of the Debian package that `file` is from. */
function copyrightOf(file) {
  // With a merged /usr, dpkg may know the file by its old place in /lib only.
  for (const known of [file, file.replace(/^\/usr/, '')]) {
    try {
      const owner = execFileSync('dpkg', ['-S', known], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split(':')[0];
      return `/usr/share/doc/${owner}/copyright`;
    } catch {
      // Try the next.
    }
  }
  throw new Error(`bundle: no Debian package owns ${file}, so its license is unknown`);
}

// A pack that runs at the same time may be reading what is there: leave it alone when it is the same.
const sources = [{ name: 'ebpf_lb.node', file: addon }, ...libraries];
const isSame = ({ name, file }) => existsSync(path.join(target, name)) && readFileSync(path.join(target, name)).equals(readFileSync(file));
if (sources.every(isSame)) process.exit(0);

const fresh = `${target}.new`;
rmSync(fresh, { recursive: true, force: true });
mkdirSync(path.join(fresh, 'licenses'), { recursive: true });
for (const { name, file } of sources) {
  copyFileSync(file, path.join(fresh, name));
  chmodSync(path.join(fresh, name), 0o644);
}
for (const { name, file } of libraries) copyFileSync(copyrightOf(file), path.join(fresh, 'licenses', `${name}.txt`));
rmSync(target, { recursive: true, force: true });
renameSync(fresh, target);
console.error(`bundle: ${path.relative(root, target)}: ${sources.map(({ name }) => name).join(', ')}`);
