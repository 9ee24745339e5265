/** The threshold that the page works with: a percentile of uncertainty, decided here without asking the server. */

/** @typedef {ReturnType<typeof createThreshold>} Threshold */

/** @param {number} percentile where it starts, 0 to 1 */
export function createThreshold(percentile) {
  /** @type {((percentile: number) => void)[]} */
  const listeners = [];
  return {
    get percentile() {
      return percentile;
    },
    /** @param {number} value 0 to 1 */
    set(value) {
      percentile = Math.min(1, Math.max(0, value));
      for (const tell of listeners) tell(percentile);
    },
    /**
     * Whether an image is too uncertain, by the server's rule: one exactly at the threshold is not.
     * @param {{percentile: number}} scores
     */
    exceeded: (scores) => scores.percentile > percentile,
    /** @param {(percentile: number) => void} listener */
    onChange: (listener) => void listeners.push(listener),
  };
}

/**
 * Where the server's own threshold lies, as a percentile; null where it has none.
 * @param {{percentile: number | null, uncertainty: number | null}} threshold
 * @param {(value: number) => number} share
 */
export function serversPercentile(threshold, share) {
  if (threshold.percentile !== null) return threshold.percentile;
  return threshold.uncertainty === null ? null : share(threshold.uncertainty);
}
