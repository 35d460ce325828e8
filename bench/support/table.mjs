import { goalOf } from '../goals.mjs';

const grouped = (value, digits) => value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** A figure says its unit with its last word. */
export function show(figure, value) {
  const unit = figure.split('.').at(-1);
  switch (unit) {
    case 'ratio':
      return grouped(value, 3);
    case 'ns':
    case 'bytes':
    case 'perSecond':
      return `${grouped(value, 0)} ${unit === 'perSecond' ? '/s' : unit}`;
    case 'us':
    case 'ms':
      return `${grouped(value, value < 100 ? 2 : 0)} ${unit}`;
    case 'percent':
      return `${grouped(value, 2)} %`;
    default:
      return grouped(value, 0);
  }
}

function goalText({ figure, most, least }) {
  return most === undefined ? `at least ${show(figure, least)}` : `at most ${show(figure, most)}`;
}

function verdict(goal, value) {
  if (!goal) return ['', ''];
  const ok = value <= (goal.most ?? Infinity) && value >= (goal.least ?? -Infinity);
  return [goalText(goal), ok ? 'reached' : 'MISSED'];
}

/** The figures of one question as lines of text. */
export function table(question, figures) {
  const rows = Object.entries(figures).map(([figure, value]) => [figure, show(figure, value), ...verdict(goalOf(question, figure), value)]);
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map(([figure, value, goal, reached]) =>
    `  ${figure.padEnd(widths[0])}  ${value.padStart(widths[1])}  ${goal.padEnd(widths[2])}  ${reached}`.trimEnd(),
  );
}
