/** Reading `/metrics`: the text that Prometheus reads, and what is told from two readings of it. */

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Sample */
/** @typedef {Record<string, string>} Labels */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
/** @type {Record<string, string>} */
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** @param {string} text @returns {Sample[]} */
export function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries(
      [...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [
        name,
        value.replace(/\\[n"\\]/g, (each) => ESCAPES[each]),
      ]),
    );
    samples.push({ name: found[1], labels, value: number(found[3]) });
  }
  return samples;
}

/** @param {string} text */
function number(text) {
  return Number(text.replace("Inf", "Infinity"));
}

/** Samples of a name that have these labels. @param {Sample[]} samples @param {string} name @param {Labels} [labels] */
export function select(samples, name, labels = {}) {
  return samples.filter(
    (sample) =>
      sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  );
}

/** Their sum; 0 for none. @param {Sample[]} samples @param {string} name @param {Labels} [labels] */
export function total(samples, name, labels) {
  return select(samples, name, labels).reduce((sum, sample) => sum + sample.value, 0);
}

/**
 * What is about this bundle: samples that name another are left out.
 * @param {Sample[]} samples
 * @param {string} bundle
 */
export function ofBundle(samples, bundle) {
  return samples.filter((sample) => sample.labels.bundle === undefined || sample.labels.bundle === bundle);
}

/**
 * What was added between two readings; a counter that fell was started anew.
 * @param {Sample[]} before
 * @param {Sample[]} now
 * @returns {Sample[]}
 */
export function since(before, now) {
  const earlier = new Map(before.map((sample) => [keyOf(sample), sample.value]));
  return now.map((sample) => {
    const start = earlier.get(keyOf(sample)) ?? 0;
    return { ...sample, value: sample.value >= start ? sample.value - start : sample.value };
  });
}

/** @param {Sample} sample */
function keyOf({ name, labels }) {
  return name + JSON.stringify(Object.entries(labels).sort());
}

/**
 * The quantile of a histogram, linear within its bucket; NaN where it is empty.
 * @param {Sample[]} samples
 * @param {string} name without `_bucket`
 * @param {number} share 0 to 1
 * @param {Labels} [labels]
 */
export function quantile(samples, name, share, labels) {
  /** @type {Map<number, number>} */
  const buckets = new Map();
  for (const sample of select(samples, `${name}_bucket`, labels)) {
    const edge = number(sample.labels.le);
    buckets.set(edge, (buckets.get(edge) ?? 0) + sample.value);
  }
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const rank = share * (sorted.at(-1)?.[1] ?? 0);
  if (rank === 0) return NaN;
  const place = sorted.findIndex(([, count]) => count >= rank);
  const [low, below] = place > 0 ? sorted[place - 1] : [0, 0];
  const [high, count] = sorted[place];
  return high === Infinity ? low : low + ((high - low) * (rank - below)) / (count - below);
}

/**
 * The mean of a histogram; NaN where it is empty.
 * @param {Sample[]} samples
 * @param {string} name
 * @param {Labels} [labels]
 */
export function mean(samples, name, labels) {
  return total(samples, `${name}_sum`, labels) / total(samples, `${name}_count`, labels);
}
