import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import path from 'node:path';
import type { LoadBalancerError } from './errors.js';
import type { Model } from './model.js';
import type { NativeBalancer } from './native/binding.js';
import { packageRoot } from './native/loader.js';
import type { Attachment, Problem, Status, VerifyReport } from './types.js';

/** Background failures that are kept for status(), the latest of each code and object. */
const PROBLEMS_KEPT = 100;

/** What is known about how things stand: failures in the background, canaries, and what status() and verify() say of them. */
export class Health {
  readonly #model: Model;
  readonly #pinPath: string | undefined;
  readonly #failures = new Map<string, Problem>();
  #hasWarned = false;
  #canary: { ok: boolean; time: number } | undefined;

  constructor(model: Model, pinPath: string | undefined) {
    this.#model = model;
    this.#pinPath = pinPath;
  }

  /** Keeps a failure that nobody listened for, and warns of the first one. */
  keep(error: LoadBalancerError): void {
    const problem = toProblem(error);
    const key = keyOf(problem);
    this.#failures.delete(key);
    this.#failures.set(key, problem);
    if (this.#failures.size > PROBLEMS_KEPT) this.#failures.delete(this.#failures.keys().next().value!);
    if (this.#hasWarned) return;
    this.#hasWarned = true;
    process.emitWarning(`${error.message} (further failures are in status().problems; listen to 'error')`, {
      type: 'LoadBalancerWarning',
      code: error.code,
    });
  }

  status(native: NativeBalancer, attachments: Attachment[]): Status {
    const problems = [...native.problems().map(copyProblem), ...nodeProblems(this.#model)];
    const known = new Set(problems.map(keyOf));
    for (const [key, failure] of this.#failures) if (!known.has(key)) problems.push(failure);
    const isAttached = attachments.some(({ state }) => state === 'attached');
    const status: Status = {
      ready: isAttached && this.#canary?.ok !== false,
      version: version(),
      kernel: release(),
      maps: native.maps().map(({ name, entries, capacity, bytes }) => ({ name, entries, capacity, bytes })),
      attachments,
      problems,
    };
    if (this.#pinPath !== undefined) status.pinPath = this.#pinPath;
    const pid = native.owner();
    if (pid > 0) status.owner = { pid };
    if (this.#canary !== undefined) status.canary = { ok: this.#canary.ok, ageMs: Math.round(performance.now() - this.#canary.time) };
    return status;
  }

  async verify(native: NativeBalancer): Promise<VerifyReport> {
    const found = await native.verify();
    const problems = [...found.problems.map(copyProblem), ...nodeProblems(this.#model)];
    const canaries = found.canaries.map(({ hook, target, ok, tookMs }) => ({ hook, target, ok, tookMs }));
    const isAlive = canaries.every(({ ok }) => ok);
    this.#canary = canaries.length === 0 ? undefined : { ok: isAlive, time: performance.now() };
    return { ok: isAlive && problems.length === 0, problems, canaries };
  }
}

function keyOf({ code, object }: Problem): string {
  return `${code} ${object}`;
}

function copyProblem({ code, object, message, remedy }: Problem): Problem {
  return { code, object, message, remedy };
}

/** The message of an error is `operation object: cause; remedy`. */
function toProblem(error: LoadBalancerError): Problem {
  const cut = error.message.lastIndexOf('; ');
  const message = cut < 0 ? error.message : error.message.slice(0, cut);
  return { code: error.code, object: error.operation, message, remedy: cut < 0 ? '' : error.message.slice(cut + 2) };
}

/** Services that wait for setNode. */
function nodeProblems(model: Model): Problem[] {
  if (model.node !== undefined) return [];
  const problems: Problem[] = [];
  for (const { name, spec } of model.services.values()) {
    const needs = spec.frontends.some(({ address }) => address === undefined)
      ? 'has frontends on the addresses of the node'
      : spec.internalTrafficPolicy === 'Local'
        ? "has internalTrafficPolicy 'Local'"
        : undefined;
    if (needs === undefined) continue;
    const message = `service '${name}' ${needs}, and it is not known which node this is`;
    problems.push({ code: 'NODE_UNKNOWN', object: name, message, remedy: 'call setNode, or give node to open' });
  }
  return problems;
}

let ownVersion: string | undefined;

/** Of this package; '0.0.0' where its package.json is not beside it. */
function version(): string {
  ownVersion ??= readVersion();
  return ownVersion;
}

function readVersion(): string {
  const root = packageRoot();
  if (root === undefined) return '0.0.0';
  const { version: text } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };
  return text;
}
