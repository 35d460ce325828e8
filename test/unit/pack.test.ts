import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const run = promisify(execFile);

/** What `npm test` told its own children about this package must not reach an npm that works on another. */
const plainEnv = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^(npm_(package|lifecycle|command|config_(local_)?prefix)|NODE_ENV$|VITEST|EBPF_LB_)/i.test(name),
  ),
);

function findCommand(name: string): string {
  const found = (process.env['PATH'] ?? '').split(':').find((directory) => existsSync(path.join(directory, name)));
  if (found === undefined) throw new Error(`${name} is not in PATH`);
  return realpathSync(path.join(found, name));
}

let scratch: string;
let app: string;
let env: NodeJS.ProcessEnv;

async function node(file: string, text: string, extra: NodeJS.ProcessEnv = {}): Promise<unknown> {
  writeFileSync(path.join(app, file), text);
  const { stdout } = await run(process.execPath, [file], { cwd: app, env: { ...env, ...extra } });
  return JSON.parse(stdout);
}

beforeAll(async () => {
  scratch = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-pack-'));
  app = path.join(scratch, 'app # 100%'); // characters that break a file turned into a URL carelessly
  mkdirSync(app);
  writeFileSync(path.join(app, 'package.json'), '{ "name": "app", "private": true }');
  await run('npm', ['pack', '--pack-destination', scratch], { cwd: root, env: plainEnv });

  // Nothing but node and npm: no compiler, no shell that an install script could run in.
  const bin = path.join(scratch, 'bin');
  mkdirSync(bin);
  symlinkSync(process.execPath, path.join(bin, 'node'));
  symlinkSync(findCommand('npm'), path.join(bin, 'npm'));
  env = { ...plainEnv, PATH: bin };
  const tarball = path.join(scratch, readdirSync(scratch).find((name) => name.endsWith('.tgz')) ?? 'missing.tgz');
  await run(path.join(bin, 'npm'), ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', tarball], {
    cwd: app,
    env,
  });
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('the packed package, installed without compiler and install scripts', () => {
  it('has no install script, and carries the licenses of what it bundles', () => {
    const installed = path.join(app, 'node_modules/ebpf-lb');
    const { scripts } = JSON.parse(readFileSync(path.join(installed, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
    expect(Object.keys(scripts)).not.toEqual(expect.arrayContaining([expect.stringMatching(/^(pre|post)?install$/)]));
    const bundled = readdirSync(path.join(installed, `prebuilds/linux-${process.arch}`));
    expect(bundled.sort()).toEqual(['ebpf_lb.node', 'libbpf.so.1', 'libelf.so.1', 'libz.so.1', 'licenses']);
    expect(readdirSync(path.join(installed, `prebuilds/linux-${process.arch}/licenses`))).toHaveLength(3);
    expect(readFileSync(path.join(installed, 'LICENSE'), 'utf8')).toContain('Apache License');
  });

  it('loads its addon and its own libbpf, libelf and libz', async () => {
    const script = `
      import { readFileSync } from 'node:fs';
      import { LoadBalancer } from 'ebpf-lb';
      const probe = LoadBalancer.probe();
      const maps = readFileSync('/proc/self/maps', 'utf8').split('\\n').map((line) => line.slice(line.indexOf('/')));
      const of = (name) => [...new Set(maps.filter((file) => file.includes('/' + name)))];
      console.log(JSON.stringify({ kernel: probe.kernel, addon: of('ebpf_lb.node'), libraries: [...of('libbpf.'), ...of('libelf'), ...of('libz.')] }));`;
    const seen = (await node('load.mjs', script)) as { kernel: string; addon: string[]; libraries: string[] };
    const place = path.join(realpathSync(app), `node_modules/ebpf-lb/prebuilds/linux-${process.arch}`);
    expect(seen.kernel).toMatch(/^\d+\.\d+/);
    expect(seen.addon).toEqual([path.join(place, 'ebpf_lb.node')]);
    expect(seen.libraries.sort()).toEqual(['libbpf.so.1', 'libelf.so.1', 'libz.so.1'].map((name) => path.join(place, name)));
  });

  it('gives the same classes to import and to require', async () => {
    const script = `
      import { createRequire } from 'node:module';
      import * as esm from 'ebpf-lb';
      import * as lab from 'ebpf-lb/lab';
      const require = createRequire(import.meta.url);
      const [cjs, cjsLab] = [require('ebpf-lb'), require('ebpf-lb/lab')];
      const names = Object.keys(cjs);
      console.log(JSON.stringify({ names, same: names.every((name) => esm[name] === cjs[name]), lab: typeof lab.Lab === 'function' && lab.Lab === cjsLab.Lab }));`;
    const seen = (await node('same.mjs', script)) as { names: string[]; same: boolean; lab: boolean };
    expect(seen.names).toEqual(expect.arrayContaining(['LoadBalancer', 'LoadBalancerError', 'reasons']));
    expect(seen).toMatchObject({ same: true, lab: true });
  });

  it('can be imported without an addon; open() then rejects with ERR_UNSUPPORTED', async () => {
    const script = `
      const { LoadBalancer } = require('ebpf-lb');
      LoadBalancer.open().then(() => 'opened', (error) => error.code).then((code) => console.log(JSON.stringify({ code, probe: typeof LoadBalancer.probe() })));`;
    const seen = await node('without.cjs', script, { EBPF_LB_ADDON: path.join(app, 'no-such.node') });
    expect(seen).toEqual({ code: 'ERR_UNSUPPORTED', probe: 'object' });
  });

  it.each([
    { name: 'node16, ES module', file: 'module.mts', options: { module: 'node16', moduleResolution: 'node16' } },
    { name: 'node16, CommonJS', file: 'common.cts', options: { module: 'node16', moduleResolution: 'node16' } },
    { name: 'bundler', file: 'bundled.ts', options: { module: 'esnext', moduleResolution: 'bundler' } },
  ])('type-checks with $name', async ({ file, options }) => {
    const text = `
import { LoadBalancer, LoadBalancerError, reasons, type ServiceSpec } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';

export async function main(lab: Lab): Promise<string> {
  const spec: ServiceSpec = { name: 'web', frontends: [{ kind: 'cluster', address: '10.96.0.1', port: 80 }], backends: [] };
  const lb = await LoadBalancer.open();
  lb.on('error', (error) => console.error(error instanceof LoadBalancerError, error.code));
  lb.addService(spec);
  await lb.attachCgroup(lab.cgroup);
  return lb.stats('web').bytes.toString() + reasons['no-backends'].sentence;
}
// @ts-expect-error: a port is a number, so the types are really there
export const wrong: ServiceSpec = { name: 'web', frontends: [{ kind: 'cluster', address: '10.96.0.1', port: '80' }] };
`;
    const directory = path.join(app, `types-${file}`);
    mkdirSync(directory);
    writeFileSync(path.join(directory, file), text);
    const compilerOptions = {
      ...options,
      target: 'es2022',
      lib: ['es2022', 'esnext.disposable'],
      typeRoots: [path.join(root, 'node_modules/@types')],
      types: ['node'],
      strict: true,
      skipLibCheck: false,
      noEmit: true,
    };
    writeFileSync(path.join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }));
    const tsc = path.join(root, 'node_modules/typescript/bin/tsc');
    const result = await run(process.execPath, [tsc, '-p', directory], { env }).catch((error: { stdout: string }) => error);
    expect(result.stdout).toBe('');
  });
});

describe('a checkout that is built in place', () => {
  it('works when it is linked as node_modules/ebpf-lb', async () => {
    const user = path.join(scratch, 'linked');
    mkdirSync(path.join(user, 'node_modules'), { recursive: true });
    symlinkSync(root, path.join(user, 'node_modules/ebpf-lb'));
    writeFileSync(
      path.join(user, 'main.mjs'),
      `import { LoadBalancer } from 'ebpf-lb'; import { Lab } from 'ebpf-lb/lab'; console.log(typeof Lab.create, LoadBalancer.probe().kernel);`,
    );
    const { stdout } = await run(process.execPath, ['main.mjs'], { cwd: user, env });
    expect(stdout).toMatch(/^function \d+\.\d+/);
  });
});
