/** Numbers as people read them. */

const NBSP = "\u00a0";

/** A share as a percentage: 0.793 -> "79.3 %". @param {number} share @param {number} [digits] */
export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}${NBSP}%`;
}

/** A count with separators. @param {number} count */
export function whole(count) {
  return count.toLocaleString("en");
}

/** "1 image", "2 images". @param {number} count @param {string} noun */
export function counted(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** A raw score. @param {number} value */
export function raw(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** Seconds in the unit that suits them. @param {number} seconds */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds >= 1) return `${seconds.toFixed(seconds >= 10 ? 0 : 1)}${NBSP}s`;
  return `${(1000 * seconds).toFixed(seconds >= 0.01 ? 0 : 1)}${NBSP}ms`;
}

/** Bytes. @param {number} count */
export function bytes(count) {
  if (count >= 2 ** 20) return `${Number((count / 2 ** 20).toFixed(1))}${NBSP}MB`;
  return count >= 2 ** 10 ? `${Math.round(count / 2 ** 10)}${NBSP}kB` : counted(count, "byte");
}
