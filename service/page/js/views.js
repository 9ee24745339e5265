/** Which of the page's views is shown: the one that the address names. */

import { byId } from "./dom.js";

const VIEWS = /** @type {const} */ (["images", "search", "gallery", "health"]);

/** @typedef {(typeof VIEWS)[number]} View */

/**
 * @param {Partial<Record<View, {enter?: () => void, leave?: () => void}>>} hooks called as a view comes and goes
 */
export function createViews(hooks) {
  /** @type {View | null} */
  let shown = null;

  function follow() {
    const named = VIEWS.find((view) => location.hash === `#${view}`) ?? shown ?? "images";
    if (named === shown) return;
    if (shown) hooks[shown]?.leave?.();
    const first = shown === null;
    shown = named;
    for (const view of VIEWS) byId(`view-${view}`).hidden = view !== named;
    for (const link of document.querySelectorAll("nav a[href^='#']")) {
      if (link.getAttribute("href") === `#${named}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${named[0].toUpperCase()}${named.slice(1)} · candor`;
    if (!first) scrollTo(0, 0);
    hooks[named]?.enter?.();
  }

  addEventListener("hashchange", follow);
  return {
    start: follow,
    /** @param {View} view */
    go: (view) => void (location.hash = `#${view}`),
    current: () => shown,
  };
}
