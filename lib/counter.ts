import Long from 'long';

/** An unsigned Long that JSON shows as a decimal string, as a number would lose bits. */
class Counter extends Long {
  toJSON(): string {
    return this.toString();
  }
}

/** A 64-bit count of the addon as a Long. */
export function toCounter(value: bigint): Long {
  return new Counter(Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)), true);
}
