// Adds the packages for other platforms that are missing in package-lock.json, after an `npm install` from a registry mirror that does not have
// them: `npm ci` refuses a lock file without them ("Missing: @scope/name-darwin-arm64@ from lock file"). Their hashes are not known here, which
// is why this is not done where the registry is complete. A test says when it is needed.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const file = path.resolve(fileURLToPath(import.meta.url), '../../package-lock.json');
const systems = ['aix', 'android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'win32'];
const processors = ['arm', 'arm64', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64'];

const lock = JSON.parse(readFileSync(file, 'utf8'));
for (const { optionalDependencies = {}, dev } of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    const where = `node_modules/${name}`;
    if (lock.packages[where]) continue;
    const words = name === 'fsevents' ? ['darwin'] : name.split(/[-/]/);
    const os = systems.filter((system) => words.includes(system));
    const cpu = processors.filter((processor) => words.includes(processor));
    const entry = { version: version.replace(/^[~^]/, ''), ...(cpu.length ? { cpu } : {}), ...(dev ? { dev } : {}), optional: true };
    const libc = words.some((word) => word.startsWith('musl')) ? { libc: ['musl'] } : {};
    lock.packages[where] = { ...entry, ...libc, ...(os.length ? { os } : {}) };
    console.log(`added ${name}`);
  }
}
const [top, ...others] = Object.entries(lock.packages);
lock.packages = Object.fromEntries([top, ...others.sort(([a], [b]) => a.localeCompare(b, 'en'))]);
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
