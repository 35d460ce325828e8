import { getSystemErrorName } from 'node:util';
import type { NativeFailure } from './native/binding.js';

export type LoadBalancerErrorCode =
  | 'ERR_INVALID_ARGUMENT'
  | 'ERR_SERVICE_EXISTS'
  | 'ERR_SERVICE_NOT_FOUND'
  | 'ERR_FRONTEND_IN_USE'
  | 'ERR_NOT_OWNER'
  | 'ERR_READONLY'
  | 'ERR_CLOSED'
  | 'ERR_LOCKED'
  | 'ERR_LAYOUT'
  | 'ERR_NOT_BPFFS'
  | 'ERR_CAPACITY'
  | 'ERR_TOO_MANY_REMOVALS'
  | 'ERR_NOT_FOUND'
  | 'ERR_HOOK_BUSY'
  | 'ERR_UNSUPPORTED'
  | 'ERR_PERMISSION'
  | 'ERR_KERNEL'
  | 'ERR_MISSING_PEER';

interface ErrorParts {
  code: LoadBalancerErrorCode;
  operation: string;
  /** What it was done to: a service, a path, a device. */
  object?: string | undefined;
  /** Cause and remedy. */
  text: string;
  path?: string | undefined;
  errno?: number | undefined;
  details?: Record<string, unknown> | undefined;
  cause?: unknown;
}

/** The one class of errors that this library throws: branch on `code`. The message is `operation object: cause; remedy`. */
export class LoadBalancerError extends Error {
  override readonly name = 'LoadBalancerError';
  readonly code: LoadBalancerErrorCode;
  readonly operation: string;
  /** Place in the argument, e.g. `backends[3].port`. */
  declare readonly path?: string;
  /** As in Node: negative number, and its name. */
  declare readonly errno?: number;
  declare readonly errnoName?: string;
  /** ERR_CAPACITY: {need, have, option}; ERR_LOCKED: {pid}; ERR_UNSUPPORTED: {feature, minimumKernel}; a verifier failure: {program, log}. */
  declare readonly details?: Readonly<Record<string, unknown>>;

  /** @internal */
  constructor(parts: ErrorParts) {
    const where = parts.object ? `${parts.operation} ${parts.object}` : parts.operation;
    super(`${where}: ${parts.text}`, parts.cause === undefined ? undefined : { cause: parts.cause });
    this.code = parts.code;
    this.operation = parts.operation;
    if (parts.path !== undefined) this.path = parts.path;
    if (parts.errno !== undefined && parts.errno !== 0) {
      this.errno = -Math.abs(parts.errno);
      this.errnoName = errnoName(this.errno);
    }
    if (parts.details !== undefined) this.details = Object.freeze({ ...parts.details });
  }
}

/** Numbers that Node has another name for, or none: the kernel's own for eBPF. */
const KERNEL_NAMES: Readonly<Record<number, string>> = { 95: 'EOPNOTSUPP', 524: 'ENOTSUPP' };

function errnoName(errno: number): string {
  const name = KERNEL_NAMES[-errno] ?? getSystemErrorName(errno);
  return name.startsWith('E') ? name : `errno ${-errno}`;
}

/** An error without a place in the arguments. */
export function failure(code: LoadBalancerErrorCode, operation: string, object: string | undefined, text: string): LoadBalancerError {
  return new LoadBalancerError({ code, operation, object, text });
}

export function unsupported(operation: string, object: string | undefined, feature: string, text: string): LoadBalancerError {
  return new LoadBalancerError({ code: 'ERR_UNSUPPORTED', operation, object, text, details: { feature } });
}

function isNativeFailure(value: unknown): value is NativeFailure {
  if (typeof value !== 'object' || value === null) return false;
  const { code, message } = value as Partial<NativeFailure>;
  return typeof code === 'string' && code.startsWith('ERR_') && typeof message === 'string';
}

/**
 * What the addon threw, as an error of `operation`. Anything else (a defect) is passed on as it is, so that its stack is not lost.
 */
export function fromNative(thrown: unknown, operation: string, object?: string): unknown {
  if (thrown instanceof LoadBalancerError || !isNativeFailure(thrown)) return thrown;
  const errno = thrown.errno === undefined || thrown.errno === 0 ? undefined : -Math.abs(thrown.errno);
  const name = errno === undefined ? undefined : errnoName(errno);
  const text = name === undefined || thrown.message.includes(name) ? thrown.message : `${name}, ${thrown.message}`;
  return new LoadBalancerError({
    code: thrown.code as LoadBalancerErrorCode,
    operation,
    object: object ?? (thrown.object || undefined),
    text:
      object !== undefined && thrown.object && !text.includes(thrown.object) && thrown.object !== object
        ? `${thrown.object}: ${text}`
        : text,
    errno,
    details: thrown.details,
  });
}
