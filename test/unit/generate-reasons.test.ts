import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { generate, problemsOf } from '../../scripts/generate-reasons.mjs';

const root = path.resolve(import.meta.dirname, '../..');
const read = (file: string) => readFileSync(path.join(root, file), 'utf8');

const first = { number: 1, name: 'one', verdict: 'drop', sentence: 'It is one.', remedy: 'Do it.' };
const second = { ...first, number: 2, name: 'number-two' };

describe('the list of reasons', () => {
  it('has no problems, and the generated files are up to date', () => {
    const list = JSON.parse(read('bpf/reasons.json'));
    expect(problemsOf(list)).toEqual([]);
    for (const [file, text] of Object.entries(generate(list))) expect(read(file), `${file}: run npm run generate`).toBe(text);
  });

  it.each([
    ['a number used twice', [first, { ...second, number: 1 }], /count up/],
    ['descending numbers', [second, first], /count up/],
    ['a number left out', [first, { ...second, number: 3 }], /count up/],
    ['a name used twice', [first, { ...second, name: 'one' }], /name is there twice/],
    [
      'the name of a retired reason',
      [
        { number: 1, retired: 'one' },
        { ...second, name: 'one' },
      ],
      /name is there twice/,
    ],
    ['a name that is not kebab-case', [{ ...first, name: 'One_1' }], /kebab-case/],
    ['an unknown verdict', [{ ...first, verdict: 'maybe' }], /verdict must be/],
    ['a missing remedy', [{ ...first, remedy: '' }], /remedy must begin/],
  ])('is refused with %s', (_, list, problem) => {
    expect(problemsOf(list)).toEqual(expect.arrayContaining([expect.stringMatching(problem)]));
  });

  it('keeps the number of a retired reason free', () => {
    const list = [first, { number: 2, retired: 'gone' }, { ...second, number: 3 }];
    expect(problemsOf(list)).toEqual([]);
    const files = generate(list);
    expect(files['bpf/include/reasons.h']).toContain('LB_REASON_NUMBER_TWO = 3,');
    expect(files['bpf/include/reasons.h']).toContain('LB_REASON_COUNT = 4,');
    expect(files['lib/reasons.ts']).not.toContain('gone');
  });
});
