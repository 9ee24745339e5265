/** What `/retrieve` answered, in words: the decision, why, what is promised of it, and the matches. */

import { h } from "./dom.js";
import { counted, percent, raw } from "./format.js";
import { payloadOf } from "./items.js";
import { standingOf } from "./policies.js";
import { strip } from "./scale.js";
import { reasonInWords, removedInWords } from "./words.js";

/**
 * @typedef {{
 *   scale: () => import("./scale.js").Scale, album: import("./album.js").Album, searchById: (id: string) => void,
 * }} Parts
 */

/** @param {Parts} parts */
export function createAnswer({ scale, album, searchById }) {
  /** @param {any} answer @param {{limit: number, policy?: string}} asked */
  return (answer, asked) => {
    const byPolicy = asked.policy !== undefined;
    return [verdict(answer, byPolicy), query(answer), matches(answer, byPolicy)].filter((each) => each !== null);
  };

  /** @param {any} answer @param {boolean} byPolicy */
  function verdict(answer, byPolicy) {
    const match = answer.decision === "match";
    const reasons = answer.reasons.map((/** @type {string} */ reason) =>
      h("li", { "data-reason": reason }, reasonInWords(reason, byPolicy)),
    );
    const removed = removedInWords(answer.removed);
    return h(
      "div",
      { class: `decision ${match ? "accepted" : "abstained"}` },
      h("h2", {}, match ? "Match" : "Abstained"),
      match && !byPolicy && h("p", {}, `${counted(answer.matches.length, "item")} within the conditions.`),
      reasons.length > 0 && h("ul", { class: "reasons" }, ...reasons),
      answer.p_correct !== null &&
        h(
          "p",
          {},
          "The best match is right with probability ",
          h("b", { "data-p-correct": answer.p_correct }, percent(answer.p_correct)),
          ".",
        ),
      byPolicy && guarantee(answer.guarantee),
      removed && h("p", { class: "note" }, removed),
    );
  }

  /** @param {any} promise */
  function guarantee(promise) {
    const share =
      promise.alpha == null
        ? ""
        : `At most ${percent(promise.alpha, 0)} of accepted answers are wrong ` +
          `(${percent(1 - promise.delta, 0)} confidence). `;
    return h(
      "p",
      { class: `guarantee ${promise.status}` },
      h("span", { class: "badge" }, promise.status),
      ` ${share}${standingOf(promise)}`,
    );
  }

  /** @param {any} answer */
  function query(answer) {
    const { uncertainty, percentile } = answer.query;
    if (uncertainty === null) return null;
    const { decode, queue, inference, search } = answer.timing_ms;
    return h(
      "div",
      { class: "query-reading" },
      h(
        "p",
        { class: "reading" },
        h("span", { class: "percentile" }, percent(percentile)),
        h("span", { class: "note" }, `percentile of the query; raw uncertainty ${raw(uncertainty)}`),
      ),
      strip(scale(), uncertainty, `The query is more uncertain than ${percent(percentile)} of the reference set`),
      h(
        "p",
        { class: "timing" },
        Object.entries({ decode, queue, inference, search })
          .map(([stage, milliseconds]) => `${stage} ${milliseconds.toFixed(1)}`)
          .join(" · ") + " ms",
      ),
    );
  }

  /** @param {any} answer @param {boolean} byPolicy */
  function matches(answer, byPolicy) {
    if (answer.matches.length === 0) return null;
    const title = byPolicy && answer.decision === "abstain" ? "Nearest items, none of them accepted" : "Nearest items";
    return h("div", {}, h("h3", {}, title), h("ol", { class: "matches" }, ...answer.matches.map(row)));
  }

  /** @param {import("./api.js").Match} match */
  function row(match) {
    const bar = h("span", { class: "score-bar" });
    bar.style.setProperty("--share", String(Math.max(0, match.score)));
    return h(
      "li",
      { class: "match" },
      album.picture(match.id),
      h("div", { class: "match-main" }, h("p", { class: "name", title: match.id }, match.id), payloadOf(match.payload)),
      h(
        "div",
        { class: "match-score" },
        h("span", { class: "label" }, "score"),
        h("b", {}, match.score.toFixed(3)),
        bar,
      ),
      h(
        "div",
        { class: "match-doubt" },
        h("span", { class: "label" }, "uncertainty"),
        h("b", {}, percent(match.percentile)),
        strip(scale(), match.uncertainty, `More uncertain than ${percent(match.percentile)} of the reference set`),
      ),
      h(
        "button",
        { type: "button", "aria-label": `Search with ${match.id}`, onclick: () => searchById(match.id) },
        "Search",
      ),
    );
  }
}
