import { describe, expect, it } from 'vitest';
import * as errors from '../../lib/errors.js';
import * as api from '../../lib/index.js';

const { LoadBalancerError, failure, fromNative, unsupported } = errors;

describe('LoadBalancerError', () => {
  it('is an Error with code, operation and message, and nothing that is undefined', () => {
    const error = failure('ERR_CLOSED', 'apply', undefined, 'the balancer is closed');
    expect(error).toBeInstanceOf(Error);
    expect(error).toBeInstanceOf(LoadBalancerError);
    expect([error.name, error.code, error.operation, error.message]).toEqual([
      'LoadBalancerError',
      'ERR_CLOSED',
      'apply',
      'apply: the balancer is closed',
    ]);
    for (const key of ['path', 'errno', 'errnoName', 'details', 'cause']) expect(error, key).not.toHaveProperty(key);
  });

  it('has details that stay', () => {
    const error = unsupported('explain', 'x', 'tc', 'no tc; use sockets');
    expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED', details: { feature: 'tc' }, message: 'explain x: no tc; use sockets' });
    expect(Object.isFrozen(error.details)).toBe(true);
  });

  it('has a negative errno with its name, as in Node, whatever sign it came with', () => {
    for (const errno of [95, -95]) {
      const error = fromNative({ code: 'ERR_KERNEL', operation: 'load', message: 'no; do', errno }, 'attachCgroup', '/a');
      expect(error).toMatchObject({ errno: -95, errnoName: 'EOPNOTSUPP', message: 'attachCgroup /a: EOPNOTSUPP, no; do' });
    }
    expect(fromNative({ code: 'ERR_KERNEL', operation: 'x', message: 'm', errno: 524 }, 'open')).toMatchObject({ errnoName: 'ENOTSUPP' });
    expect(fromNative({ code: 'ERR_KERNEL', operation: 'x', message: 'm', errno: 4000 }, 'open')).toMatchObject({
      errnoName: 'errno 4000',
    });
    expect(fromNative({ code: 'ERR_KERNEL', operation: 'x', message: 'm', errno: 0 }, 'open')).not.toHaveProperty('errno');
  });

  it('names the object of the addon where the caller has none or another', () => {
    const thrown = { code: 'ERR_KERNEL', operation: 'map', object: 'backends', message: 'full' };
    expect(fromNative(thrown, 'open')).toMatchObject({ message: 'open backends: full' });
    expect(fromNative(thrown, 'open', '/sys/fs/bpf/x')).toMatchObject({ message: 'open /sys/fs/bpf/x: backends: full' });
  });

  it('passes on what is no failure of the addon', () => {
    const defect = new TypeError('defect');
    expect(fromNative(defect, 'open')).toBe(defect);
    const own = failure('ERR_CLOSED', 'a', 'b', 'c');
    expect(fromNative(own, 'open')).toBe(own);
    expect(fromNative(undefined, 'open')).toBeUndefined();
    const foreign = Object.assign(new Error('x'), { code: 'ENOENT' });
    expect(fromNative(foreign, 'open')).toBe(foreign);
  });
});

describe('the package', () => {
  it('exports what it says and nothing else', () => {
    expect(Object.keys(api).sort()).toEqual(['LoadBalancer', 'LoadBalancerError', 'reasons']);
  });

  it('has a number, a sentence and a remedy for each reason', () => {
    const numbers = Object.values(api.reasons).map(({ number }) => number);
    expect(new Set(numbers).size).toBe(numbers.length);
    for (const [name, { sentence, remedy }] of Object.entries(api.reasons)) {
      expect(sentence, name).toMatch(/^[A-Z].*\.$/);
      expect(remedy, name).toMatch(/\.$/);
    }
  });

  it('has no member that only later versions will have', () => {
    const later = ['flows', 'metrics'];
    for (const name of later) expect(api.LoadBalancer.prototype, name).not.toHaveProperty(name);
  });
});
