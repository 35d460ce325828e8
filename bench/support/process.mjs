import { spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';

/** /usr/sbin is not in everybody's PATH. */
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

export const have = (command) => spawnSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore', env }).status === 0;

/** Runs a command to its end; throws with what it said when it fails. */
export function run(command, args, { input } = {}) {
  const result = spawnSync(command, args, { input, encoding: 'utf8', maxBuffer: 1 << 28, env });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${result.stderr || `status ${result.status ?? result.signal}`}`);
  return result.stdout;
}

/** A program that answers lines with lines, in order. */
export class Conversation {
  #child;
  #waiting = [];
  #errors = '';
  #ended;

  constructor(command, args) {
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#waiting.shift()?.resolve(line));
    this.#child.stderr.setEncoding('utf8').on('data', (text) => (this.#errors += text));
    this.#child.stdin.on('error', () => {});
    this.#ended = new Promise((resolve) => {
      const end = (why) => {
        for (const { reject } of this.#waiting.splice(0)) reject(new Error(`${command}: ${this.#errors.trim() || why}`));
        resolve(this.#errors.trim());
      };
      this.#child.on('error', (error) => end(error.message));
      this.#child.on('close', (status, signal) => end(`ended with ${signal ?? `status ${status}`}`));
    });
  }

  get pid() {
    return this.#child.pid;
  }

  /** Sends lines that nothing answers. */
  tell(...lines) {
    for (const line of lines) this.#child.stdin.write(`${line}\n`);
  }

  /** Sends a line and waits for its answer. */
  ask(line) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve: (answer) => resolve(JSON.parse(answer)), reject });
      this.tell(line);
    });
  }

  async end() {
    this.#child.stdin.end();
    const errors = await this.#ended;
    if (errors) throw new Error(errors);
  }
}
