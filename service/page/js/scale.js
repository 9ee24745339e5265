/** The reference set of the served bundle, ready to be drawn: one scale for the panel, every card and every list. */

import { h, s } from "./dom.js";
import { density, domainOf, percentileOf, valueAt } from "./quantiles.js";

const HEIGHT = 100;

/**
 * @typedef {{
 *   dataset: string, count: number, path: string,
 *   share: (value: number) => number, value: (share: number) => number, place: (value: number) => number,
 * }} Scale
 */

/**
 * @param {{dataset: string, count: number, uncertainty: number[]}} reference as `GET /model` tells it
 * @returns {Scale}
 */
export function createScale(reference) {
  const grid = reference.uncertainty;
  const domain = domainOf(grid);
  return {
    dataset: reference.dataset,
    count: reference.count,
    path: outline(density(grid, domain)),
    share: (value) => percentileOf(grid, value),
    value: (share) => valueAt(grid, share),
    /** Where a raw uncertainty lies on the chart, 0 to 1; what is beyond the chart lies at its edge. */
    place: (value) => Math.min(1, Math.max(0, (value - domain[0]) / (domain[1] - domain[0]))),
  };
}

/** The area under the heights, in a box of 100 by 100. @param {number[]} heights */
function outline(heights) {
  const points = heights.map((height, i) => {
    const x = (100 * (i + 0.5)) / heights.length;
    return `${x.toFixed(2)} ${(HEIGHT - 0.94 * HEIGHT * height).toFixed(2)}`;
  });
  return `M0 ${HEIGHT}L${points.join("L")}L100 ${HEIGHT}Z`;
}

/** The distribution as a shape that fills its box. @param {Scale} scale */
export function shape(scale) {
  return s(
    "svg",
    { class: "shape", viewBox: `0 0 100 ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { d: scale.path }),
  );
}

/**
 * One image on the reference distribution; what lies beyond the threshold is marked by the style sheet.
 * @param {Scale} scale
 * @param {number} uncertainty raw
 * @param {string} label what the picture says, for who cannot see it
 */
export function strip(scale, uncertainty, label) {
  const marker = h("span", { class: "marker" });
  marker.style.setProperty("--place", String(scale.place(uncertainty)));
  return h(
    "div",
    { class: "strip", role: "img", "aria-label": label },
    shape(scale),
    h("span", { class: "beyond" }),
    marker,
  );
}
