/** The threshold panel: the slider, the images on the reference distribution, and what the threshold comes to. */

import { byId, h, oncePerFrame, replace, s } from "./dom.js";
import { counted, percent, raw, whole } from "./format.js";
import { riskAt } from "./policies.js";
import { shape } from "./scale.js";

const MARKS = [0.1, 0.5, 0.9];

/**
 * @param {{
 *   shelf: import("./shelf.js").Shelf, threshold: import("./threshold.js").Threshold,
 *   scale: () => import("./scale.js").Scale,
 *   servers: () => number | null, policies: () => import("./policies.js").Policy[],
 * }} parts `servers`: the percentile that the server itself abstains above
 */
export function createPanel({ shelf, threshold, scale, servers, policies }) {
  const slider = /** @type {HTMLInputElement} */ (byId("threshold"));
  const number = /** @type {HTMLInputElement} */ (byId("threshold-number"));

  slider.addEventListener("input", () => threshold.set(slider.valueAsNumber / 100));
  number.addEventListener("input", () => {
    if (number.value !== "" && number.validity.valid) threshold.set(number.valueAsNumber / 100);
  });
  number.addEventListener("blur", show);

  function show() {
    const text = String(Number((100 * threshold.percentile).toFixed(1)));
    slider.value = text;
    slider.setAttribute("aria-valuetext", `${text} %`);
    if (document.activeElement !== number) number.value = text;
    const cut = scale().value(threshold.percentile);
    document.documentElement.style.setProperty("--cut", String(threshold.percentile >= 1 ? 1 : scale().place(cut)));
    byId("threshold-note").textContent = `Raw uncertainty ${raw(cut)}. ${origin(threshold.percentile, servers())}`;
    byId("use-threshold-value").textContent = percent(threshold.percentile);
    marks();
    tiles();
  }

  function draw() {
    const marksOf = MARKS.map((share) => {
      const mark = h("span", {}, percent(share, 0));
      mark.style.setProperty("--place", String(scale().place(scale().value(share))));
      return mark;
    });
    replace(byId("chart-axis"), ...marksOf);
    replace(
      byId("chart"),
      shape(scale()),
      h("span", { class: "beyond" }),
      s(
        "svg",
        { class: "rug", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        s("path", { class: "rug-answered" }),
        s("path", { class: "rug-abstained" }),
      ),
    );
    byId("chart-caption").textContent =
      `Uncertainty of the reference set: ${scale().dataset}. Ticks are images of this page.`;
    show();
  }

  const marks = oncePerFrame(() => {
    const ticks = { answered: "", abstained: "" };
    for (const { scores } of shelf.scored()) {
      ticks[threshold.exceeded(scores) ? "abstained" : "answered"] +=
        `M${(100 * scale().place(scores.uncertainty)).toFixed(2)} 0v10`;
    }
    byId("chart").querySelector(".rug-answered")?.setAttribute("d", ticks.answered);
    byId("chart").querySelector(".rug-abstained")?.setAttribute("d", ticks.abstained);
  });

  const tiles = oncePerFrame(() => {
    const scored = shelf.scored();
    const answered = scored.filter(({ scores }) => !threshold.exceeded(scores)).length;
    replace(
      byId("coverage"),
      ...pageTile(answered, scored.length),
      ...referenceTile(threshold.percentile, scale()),
      ...policies().map((policy) => riskTile(policy, scale().value(threshold.percentile), threshold.percentile >= 1)),
    );
    byId("chart").setAttribute(
      "aria-label",
      `Reference distribution of uncertainty; the threshold is at ${percent(threshold.percentile)}, ` +
        `${answered} of ${counted(scored.length, "image")} on this page are within it`,
    );
  });

  threshold.onChange(show);
  shelf.onChange(() => {
    marks();
    tiles();
  });
  return { draw, show };
}

/** @param {number} percentile @param {number | null} servers */
function origin(percentile, servers) {
  if (servers === null) return "For this page only: the server itself sets no threshold.";
  if (Math.abs(servers - percentile) < 5e-4) return "This is the server's own threshold.";
  return `For this page only: the server's own threshold is ${percent(servers)}.`;
}

/** @param {number} answered @param {number} total */
function pageTile(answered, total) {
  return [
    tile(
      "Coverage on this page",
      total ? percent(answered / total) : "–",
      total ? `${whole(answered)} of ${counted(total, "image")} answered` : "no images yet",
      "page",
    ),
  ];
}

/** @param {number} percentile @param {import("./scale.js").Scale} scale */
function referenceTile(percentile, scale) {
  return [
    tile("Coverage of the reference set", percent(percentile), `of ${counted(scale.count, "image")}`, "reference"),
  ];
}

/** @param {import("./policies.js").Policy} policy @param {number} cut raw @param {boolean} everything */
function riskTile(policy, cut, everything) {
  const at = riskAt(policy, everything ? Infinity : cut);
  const name = `Selective risk, policy ${policy.name}${policy.status === "valid" ? "" : ` (${policy.status})`}`;
  if (at === null) return tile(name, "–", "its labelled queries say nothing of thresholds on uncertainty", "risk");
  if (at.risk === null) return tile(name, "–", "none of its labelled queries is within the threshold", "risk");
  return tile(
    name,
    percent(at.risk),
    `wrong among the ${percent(at.coverage, 0)} of its ${whole(policy.quality.queries)} labelled queries within it`,
    "risk",
  );
}

/** @param {string} name @param {string} value @param {string} note @param {string} key */
function tile(name, value, note, key) {
  return h(
    "div",
    { class: "tile", "data-tile": key },
    h("dt", {}, name),
    h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "note" }, note)),
  );
}
