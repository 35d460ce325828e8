// Runs `npm ci` when node_modules is missing or does not hold what package-lock.json says. No stamp: npm's own record in node_modules is
// compared, so an install by hand counts as well.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

process.chdir(path.resolve(fileURLToPath(import.meta.url), '../..'));

function isInstalled() {
  const record = 'node_modules/.package-lock.json';
  if (!existsSync(record)) return false;
  const installed = JSON.parse(readFileSync(record, 'utf8')).packages;
  const wanted = JSON.parse(readFileSync('package-lock.json', 'utf8')).packages;
  return Object.entries(wanted).every(([where, { version, optional, peer }]) => {
    if (where === '' || (optional && !installed[where])) return true; // optional: for another platform
    return installed[where]?.version === version && (peer || existsSync(path.join(where, 'package.json')));
  });
}

if (!isInstalled()) {
  console.error('setup: npm ci');
  const { status } = spawnSync('npm', ['ci', '--no-audit', '--no-fund'], { stdio: ['ignore', 2, 2] });
  process.exit(status ?? 1);
}
