/** Certified policies in words, and what a threshold on uncertainty alone comes to on their labelled queries. */

import { percent, whole } from "./format.js";

/**
 * @typedef {{threshold: number[], coverage: number[], risk: number[]}} Curve
 * @typedef {{
 *   alpha: number, delta: number, k: number | "adaptive", feasible: boolean,
 *   certificate: null | {
 *     coverage: number, labels: number, accepted: number, loss: number, labels_needed: number | null,
 *   },
 * }} Target
 * @typedef {{
 *   name: string, status: "valid" | "stale" | "alarm", status_reasons: string[], bundle_hash: string,
 *   targets: Target[],
 *   quality: {queries: number, base_risk: number, selective_risk?: Record<string, Curve>},
 * }} Policy
 */

/**
 * Of the labelled queries up to a raw uncertainty: their share, and the share of those with a wrong best match.
 * @param {Policy} policy
 * @param {number} uncertainty
 * @returns {{coverage: number, risk: number | null} | null} null where the policy does not know
 */
export function riskAt(policy, uncertainty) {
  const curve = policy.quality.selective_risk?.uncertainty;
  if (!curve) return null;
  const last = curve.threshold.findLastIndex((each) => each <= uncertainty);
  return last < 0 ? { coverage: 0, risk: null } : { coverage: curve.coverage[last], risk: curve.risk[last] };
}

/** What is promised, in a line. @param {Target} target */
export function promiseOf({ alpha, delta, k }) {
  const sure = `${percent(1 - delta, 0)} confidence`;
  if (k === "adaptive") return `a right match in ${percent(1 - alpha, 0)} of sets`;
  if (k === 1) return `at most ${percent(alpha, 0)} wrong, ${sure}`;
  return `at most ${percent(alpha, 0)} of the first ${k} wrong, ${sure}`;
}

/** What was had when it was certified. @param {Target} target */
export function evidenceOf({ certificate, feasible }) {
  if (!certificate)
    return feasible
      ? "The number of matches depends on the query's uncertainty."
      : "No number of matches keeps this promise.";
  if (!feasible) {
    const needed = certificate.labels_needed;
    const more = needed ? `; about ${whole(needed)} would be needed` : "";
    return `Could not be certified with ${whole(certificate.labels)} labels${more}.`;
  }
  const risk = certificate.accepted ? certificate.loss / certificate.accepted : 0;
  const accepted = `${percent(certificate.coverage, 0)} accepted, ${percent(risk)} of those wrong`;
  return `Certified on ${whole(certificate.labels)} labelled queries: ${accepted}.`;
}

/** Whether it still holds. @param {{status: string, reasons?: string[]}} standing */
export function standingOf({ status, reasons = [] }) {
  const because = reasons.length > 0 ? `: ${reasons.join("; ")}` : "";
  if (status === "valid") return "The promise holds.";
  if (status === "stale") return `The promise may no longer hold${because}. Certify anew.`;
  return `Do not rely on the promise${because}. Certify anew.`;
}
