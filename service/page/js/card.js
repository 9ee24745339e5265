/** One image as a card: its picture, its uncertainty on the reference distribution, and what can be done with it. */

import { h, replace } from "./dom.js";
import { duration, percent, raw } from "./format.js";
import { strip } from "./scale.js";

/**
 * @typedef {import("./shelf.js").Picture} Picture
 * @typedef {{
 *   scale: () => import("./scale.js").Scale, threshold: import("./threshold.js").Threshold,
 *   search: (picture: Picture) => void, add: (picture: Picture) => void,
 *   remove: (picture: Picture) => void, retry: (picture: Picture) => void,
 * }} Parts
 */

const WAITING = { waiting: "Waiting", working: "Embedding …", cancelled: "Not sent" };

/** @param {Picture} picture @param {Parts} parts */
export function createCard(picture, parts) {
  const image = h("img", { alt: "", decoding: "async" });
  const verdict = h("span", { class: "verdict", hidden: true });
  const body = h("div", { class: "card-body" });
  const element = h(
    "li",
    { class: "card" },
    h("div", { class: "thumb", "data-extension": extension(picture.name) }, image, verdict),
    h(
      "div",
      { class: "card-head" },
      h("h3", { class: "name", title: picture.name }, picture.name),
      h(
        "button",
        {
          class: "icon",
          type: "button",
          "aria-label": `Remove ${picture.name}`,
          title: "Remove",
          onclick: () => parts.remove(picture),
        },
        "×",
      ),
    ),
    body,
  );

  function decide() {
    const abstained = picture.scores !== undefined && parts.threshold.exceeded(picture.scores);
    verdict.hidden = picture.scores === undefined;
    element.classList.toggle("abstained", abstained);
    const word = abstained ? "Abstained" : "Answered";
    if (verdict.textContent !== word) verdict.textContent = word;
  }

  function render() {
    element.dataset.state = picture.state;
    replace(body, ...content(picture, parts));
    decide();
  }

  render();
  return { element, image, picture, render, decide };
}

/** @param {Picture} picture @param {Parts} parts */
function content(picture, parts) {
  if (picture.scores) return answered(picture, picture.scores, parts);
  if (picture.problem) return failed(picture, parts);
  const again = h("button", { type: "button", onclick: () => parts.retry(picture) }, "Send");
  return [
    h("p", { class: "waiting" }, WAITING[/** @type {keyof typeof WAITING} */ (picture.state)]),
    picture.state === "cancelled" && h("div", { class: "actions" }, again),
  ];
}

/** @param {Picture} picture @param {import("./api.js").Scores} scores @param {Parts} parts */
function answered(picture, scores, parts) {
  const share = percent(scores.percentile);
  const { decode, queue, inference } = picture.timing ?? { decode: 0, queue: 0, inference: 0 };
  return [
    h(
      "p",
      { class: "reading" },
      h("span", { class: "percentile", title: "Share of the reference set that is less uncertain" }, share),
      h("span", { class: "label" }, "percentile"),
    ),
    strip(parts.scale(), scores.uncertainty, `More uncertain than ${share} of the reference set`),
    h(
      "dl",
      { class: "facts" },
      fact("Raw", raw(scores.uncertainty), "Raw uncertainty; higher is less sure"),
      fact("Novelty", percent(scores.novelty_percentile), "Percentile of the distance from the training images"),
    ),
    h(
      "dl",
      { class: "facts stages" },
      fact("Decode", stage(decode), "Time on the server"),
      fact("Queue", stage(queue), "Time on the server"),
      fact("Inference", stage(inference), "Time on the server"),
    ),
    h(
      "div",
      { class: "actions" },
      h(
        "button",
        { type: "button", "aria-label": `Search with ${picture.name}`, onclick: () => parts.search(picture) },
        "Search",
      ),
      h(
        "button",
        { type: "button", "aria-label": `Add ${picture.name} to the gallery`, onclick: () => parts.add(picture) },
        picture.addedAs ? "In gallery ✓" : "Add to gallery",
      ),
    ),
  ];
}

/** @param {number} milliseconds */
function stage(milliseconds) {
  return duration(milliseconds / 1000);
}

/** @param {string} name @param {string} value @param {string} meaning */
function fact(name, value, meaning) {
  return h("div", { title: meaning }, h("dt", {}, name), h("dd", {}, value));
}

/** @param {Picture} picture @param {Parts} parts */
function failed(picture, parts) {
  const problem = /** @type {import("./problem.js").Problem} */ (picture.problem);
  return [
    h("p", { class: "problem-title" }, problem.title),
    h("p", { class: "problem-detail" }, problem.detail),
    h("p", { class: "timing" }, [problem.status || null, problem.type].filter(Boolean).join(" · ")),
    h(
      "div",
      { class: "actions" },
      h(
        "button",
        { type: "button", "aria-label": `Retry ${picture.name}`, onclick: () => parts.retry(picture) },
        "Retry",
      ),
    ),
  ];
}

/** "HEIC" of "photo.heic". @param {string} name */
function extension(name) {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(dot + 1, dot + 6).toUpperCase() : "";
}
