export const sum = (values) => values.reduce((total, value) => total + value, 0);
export const mean = (values) => sum(values) / values.length;

/** The value below which `share` of them lie. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

export const median = (values) => quantile(values, 0.5);

/** Each value over the mean of the two base values taken just before and just after it; `base` has one more. */
export const overNeighbours = (values, base) => values.map((value, i) => value / mean([base[i], base[i + 1]]));

/** "1.123 (1.110 to 1.140)": the median and the middle half. */
export const spread = (values, digits = 3) =>
  `${median(values).toFixed(digits)} (${quantile(values, 0.25).toFixed(digits)} to ${quantile(values, 0.75).toFixed(digits)})`;
