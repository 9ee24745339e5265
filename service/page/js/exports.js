/** What the page knows of its images, as files. */

const COLUMNS = [
  "name",
  "bytes",
  "status",
  "uncertainty",
  "percentile",
  "novelty",
  "novelty_percentile",
  "abstained",
  "threshold_percentile",
  "decode_ms",
  "queue_ms",
  "inference_ms",
  "error",
  "detail",
];

/**
 * One row for each image that was answered or refused.
 * @param {import("./shelf.js").Picture[]} pictures
 * @param {import("./threshold.js").Threshold} threshold
 * @returns {Record<string, string | number | boolean | null>[]}
 */
export function rowsOf(pictures, threshold) {
  return pictures
    .filter(({ state }) => state === "done" || state === "failed")
    .map(({ name, file, scores, timing, problem }) => ({
      name,
      bytes: file.size,
      status: scores ? "ok" : "error",
      uncertainty: scores?.uncertainty ?? null,
      percentile: scores?.percentile ?? null,
      novelty: scores?.novelty ?? null,
      novelty_percentile: scores?.novelty_percentile ?? null,
      abstained: scores ? threshold.exceeded(scores) : null,
      threshold_percentile: threshold.percentile,
      decode_ms: timing?.decode ?? null,
      queue_ms: timing?.queue ?? null,
      inference_ms: timing?.inference ?? null,
      error: problem?.type ?? null,
      detail: problem?.detail ?? null,
    }));
}

/** Rows as CSV (RFC 4180). @param {Record<string, string | number | boolean | null>[]} rows */
export function asCsv(rows) {
  const lines = [COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))];
  return lines.map((cells) => cells.map(cell).join(",") + "\r\n").join("");
}

/** A cell; a text that a spreadsheet would take for a formula is quoted as text. @param {unknown} value */
function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Hand a text to the user as a file. @param {string} name @param {string} type @param {string} text */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
