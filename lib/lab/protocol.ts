import type { LoadBalancerErrorCode } from '../errors.js';
import type { LabPlan } from './plan.js';

// What the owner of a lab and the processes that it starts say to each other: one request, one reply.

export type HelperRequests = {
  create: { request: { cgroup: string; plan: LabPlan }; reply: { cgroup: string; paths: Record<string, string>; warnings: string[] } };
  close: { request: Record<string, never>; reply: Record<string, never> };
};

export type ServerRequests = {
  /** Resolves once the port is open. */
  http: { request: { port: number; address?: string; body?: string; delayMs?: number }; reply: { id: number } };
  udp: { request: { port: number; address?: string }; reply: { id: number } };
  /** Resolves once the port and its connections are closed. */
  stop: { request: { id: number }; reply: Record<string, never> };
};

export type Requests = { [name: string]: { request: object; reply: object } };

export interface RequestMessage {
  id: number;
  name: string;
  request: object;
}
export type ReplyMessage = { id: number } & ({ reply: object } | { failure: Failure });
export interface Failure {
  code: LoadBalancerErrorCode;
  text: string;
  errno: number | undefined;
}

export function toFailure(thrown: unknown): Failure {
  const { code, errno, message = String(thrown) } = thrown as NodeJS.ErrnoException;
  const isRefusal = code === 'EACCES' || code === 'EPERM' || code === 'EROFS' || message.includes('Operation not permitted');
  const uid = process.getuid?.();
  const remedy = isRefusal && uid !== 0 ? `; a lab needs root, this is user ${uid}` : '';
  return { code: isRefusal ? 'ERR_PERMISSION' : 'ERR_KERNEL', text: message + remedy, errno };
}

/** The child's side: answers requests until the owner is gone. */
export function answerRequests<R extends Requests>(
  handlers: { [K in keyof R]: (request: R[K]['request']) => Promise<R[K]['reply']> },
): void {
  process.on('message', (message: RequestMessage) => {
    const handler: ((request: object) => Promise<object>) | undefined = handlers[message.name];
    const answer = handler ? handler(message.request) : Promise.reject(new Error(`unknown request ${message.name}`));
    answer.then(
      (reply) => send({ id: message.id, reply }),
      (error: unknown) => send({ id: message.id, failure: toFailure(error) }),
    );
  });
}

function send(message: ReplyMessage): void {
  // Nobody to tell once the owner has gone.
  if (process.connected) process.send?.(message, () => {});
}
