/** Percentiles in the bundle's reference set, by the rule of the server's `uncertainty/calibration.py`. */

/**
 * The share of the reference set that lies below a score: linear between quantiles, the middle of a run of ties.
 * @param {number[]} grid evenly spaced quantiles, ascending
 * @param {number} value
 */
export function percentileOf(grid, value) {
  const left = firstWhere(grid, (each) => each >= value);
  const right = firstWhere(grid, (each) => each > value);
  const position = left < right ? (left + right - 1) / 2 : between(grid, value, right);
  return Math.min(1, Math.max(0, position / (grid.length - 1)));
}

/** @param {number[]} grid @param {number} value @param {number} right the index of the next quantile */
function between(grid, value, right) {
  const upper = Math.min(Math.max(right, 1), grid.length - 1);
  const low = grid[upper - 1];
  const high = grid[upper];
  const fraction = high > low ? (value - low) / (high - low) : Number(value > low);
  return upper - 1 + Math.min(1, Math.max(0, fraction));
}

/** The raw score at a percentile. @param {number[]} grid @param {number} share 0 to 1 */
export function valueAt(grid, share) {
  const position = share * (grid.length - 1);
  const below = Math.min(Math.floor(position), grid.length - 2);
  return grid[below] + (position - below) * (grid[below + 1] - grid[below]);
}

/** @param {number[]} grid @param {(value: number) => boolean} holds from some place on */
function firstWhere(grid, holds) {
  let low = 0;
  let high = grid.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(grid[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * The reference distribution as heights, the tallest 1, at the middles of equal steps over `domain`.
 * @param {number[]} grid
 * @param {[number, number]} domain
 * @param {number} [steps]
 * @returns {number[]}
 */
export function density(grid, [low, high], steps = 64) {
  const shares = Array.from({ length: steps + 1 }, (_, i) => percentileOf(grid, low + ((high - low) * i) / steps));
  let heights = shares.slice(1).map((share, i) => share - shares[i]);
  for (let round = 0; round < 3; round++) heights = smoothed(heights);
  const tallest = Math.max(...heights, Number.MIN_VALUE);
  return heights.map((height) => height / tallest);
}

/** @param {number[]} values */
function smoothed(values) {
  return values.map((value, i) => ((values[i - 1] ?? value) + 2 * value + (values[i + 1] ?? value)) / 4);
}

/**
 * What a chart shows of the reference set: all but its thinnest tails.
 * @param {number[]} grid
 * @returns {[number, number]}
 */
export function domainOf(grid) {
  const low = valueAt(grid, 0.002);
  const high = valueAt(grid, 0.998);
  const margin = 0.04 * (high - low) || 1;
  return [low - margin, high + margin];
}
