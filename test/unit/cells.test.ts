import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const program = path('../../build/test/cells');
beforeAll(() => {
  mkdirSync(path('../../build/test'), { recursive: true });
  execFileSync('g++', ['-std=c++20', '-O2', '-o', program, path('../support/cells.cc'), path('../../native/core/maglev.cc')]);
});

type Weights = [id: number, weight: number][];
const equal = (n: number): Weights => Array.from({ length: n }, (_, i) => [i + 1, 1]);

/** Cells of several sets of backends. */
function cells(algorithm: 'maglev' | 'random' | 'round-robin', ...sets: Weights[]): number[][] {
  const input = sets.map((set) => `${algorithm} ${set.map(([id, weight]) => `${id}:${weight}`).join(' ')}`).join('\n');
  const output = execFileSync(program, { input: `${input}\n`, maxBuffer: 1 << 28 }).toString();
  return output
    .split('\n')
    .slice(0, sets.length)
    .map((line) => (line === '' ? [] : line.split(' ').map(Number)));
}

function shares(list: number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const id of list) counts.set(id, (counts.get(id) ?? 0) + 1);
  return new Map([...counts].map(([id, n]) => [id, n / list.length]));
}

/** Of the cells whose backend did not go, how many changed. */
const needless = (before: number[], after: number[], gone: number) =>
  before.filter((id, i) => id !== gone && after[i] !== id).length / before.length;

describe('maglev', () => {
  test.each([2, 3, 10, 40, 100, 160])('[1.2] %i backends: at most 1 percent imbalance beyond the weights', (n) => {
    const weighted: Weights = equal(n).map(([id]) => [id, 1 + (id % 4)]);
    for (const set of [equal(n), weighted]) {
      const total = set.reduce((sum, [, weight]) => sum + weight, 0);
      const [list = []] = cells('maglev', set);
      const got = shares(list);
      for (const [id, weight] of set)
        expect(Math.abs((got.get(id) ?? 0) - weight / total) * n, `backend ${id}`).toBeLessThanOrEqual(
          0.01 * Math.max(1, (n * weight) / total),
        );
    }
  });

  test.each([3, 10, 20, 100])('[1.2] %i backends: on average at most 2 percent of needless moves when one goes', (n) => {
    const all = equal(n);
    const [before = [], ...after] = cells('maglev', all, ...all.map(([gone]) => all.filter(([id]) => id !== gone)));
    const moves = after.flatMap((list, i) => (list.length === before.length ? [needless(before, list, i + 1)] : []));
    expect(moves).not.toHaveLength(0);
    expect(moves.reduce((a, b) => a + b, 0) / moves.length).toBeLessThanOrEqual(0.02);
  });

  test('[1.2] the table depends on the backends alone, not on their order', () => {
    const set: Weights = equal(20).map(([id]) => [id, 1 + (id % 3)]);
    const [one, two] = cells('maglev', set, [...set].reverse());
    expect(two).toEqual(one);
  });

  test('[1.2] turns are those of the weighted rounds, one by one', () => {
    const sets: Weights[] = [
      equal(7).map(([id]) => [id, id * id]),
      equal(40).map(([id]) => [id, id === 3 ? 65_535 : 1]),
      equal(30).map(([id]) => [id, 1 + ((id * 7919) % 65_535)]),
    ];
    cells('maglev', ...sets).forEach((list, i) => {
      // By the definition: in each round everybody gains his weight, and who has the largest weight together has a turn.
      const weights = new Map(sets[i]);
      const most = Math.max(...weights.values());
      expect(shares(list).size).toBe(weights.size);
      const wanted = new Map([...weights].map(([id]) => [id, 0]));
      const credit = new Map([...weights].map(([id, weight]) => [id, most - weight]));
      let turns = 0;
      let last = 0;
      for (; turns + last <= list.length || turns === 0; turns += last) {
        last = 0;
        for (const [id, weight] of weights) {
          const has = (credit.get(id) ?? 0) + weight;
          credit.set(id, has % most);
          if (has < most) continue;
          wanted.set(id, (wanted.get(id) ?? 0) + 1);
          last++;
        }
      }
      // The last round is cut, so nobody has more than it gave him, or misses more than that one.
      for (const [id, n] of wanted) {
        const got = list.filter((cell) => cell === id).length;
        expect(n - got, `backend ${id} of set ${i}`).toBeGreaterThanOrEqual(-1);
        expect(n - got, `backend ${id} of set ${i}`).toBeLessThanOrEqual(1);
      }
    });
  });

  test('[1.2] one backend of the largest weight among 5,000 takes no longer than equal ones', () => {
    const timed = (set: Weights) => {
      const begin = performance.now();
      const [list = []] = cells('maglev', set);
      return { list, ms: performance.now() - begin };
    };
    const even = timed(equal(5000));
    const heavy = timed(equal(5000).map(([id]) => [id, id === 7 ? 65_535 : 1]));
    expect(heavy.list).toHaveLength(even.list.length);
    expect(Math.abs((shares(heavy.list).get(7) ?? 0) - 65_535 / (65_535 + 4999))).toBeLessThanOrEqual(0.01);
    expect(heavy.ms).toBeLessThan(5 * even.ms + 1000);
  });

  test('[1.2] a backend of the smallest weight has a cell beside one of the largest', () => {
    const [list = []] = cells('maglev', [
      [1, 1],
      [2, 65_535],
    ]);
    expect(shares(list).size).toBe(2);
  });
});

describe('weighted cells', () => {
  test('[1.2] random has each backend as often as its weight says, reduced by the common divisor', () => {
    const [list = []] = cells('random', [
      [1, 30],
      [2, 60],
      [3, 90],
    ]);
    expect([...list].sort()).toEqual([1, 2, 2, 3, 3, 3]);
  });

  test('[1.2] beyond 4,096 cells the shares are right to a cell, and the smallest has one', () => {
    const set: Weights = [
      [1, 65_535],
      [2, 32_768],
      [3, 1],
    ];
    const total = 65_535 + 32_768 + 1;
    for (const algorithm of ['random', 'round-robin'] as const) {
      const [list = []] = cells(algorithm, set);
      expect(list.length).toBeGreaterThanOrEqual(4096);
      for (const [id, weight] of set) {
        const n = list.filter((cell) => cell === id).length;
        expect(n, algorithm).toBeGreaterThanOrEqual(1);
        expect(Math.abs(n - (list.length * weight) / total), algorithm).toBeLessThanOrEqual(1);
      }
    }
  });

  test('[1.2] round robin is as smooth as nginx: 5, 1, 1 is a a b a c a a', () => {
    const [list] = cells('round-robin', [
      [1, 5],
      [2, 1],
      [3, 1],
    ]);
    expect(list).toEqual([1, 1, 2, 1, 3, 1, 1]);
  });

  test('[1.2] round robin of many heavy backends is dealt evenly in any stretch', () => {
    const set: Weights = equal(400).map(([id]) => [id, 1 + (id % 50)]);
    const [list = []] = cells('round-robin', set);
    const total = set.reduce((sum, [, weight]) => sum + weight, 0);
    expect(list).toHaveLength(total);
    for (const [id, weight] of set.filter(([, weight]) => weight === 50)) {
      const at = list.flatMap((cell, i) => (cell === id ? [i] : []));
      const gaps = at.slice(1).map((position, i) => position - (at[i] ?? 0));
      expect(Math.max(...gaps)).toBeLessThan((2.5 * total) / weight);
    }
  });
});
