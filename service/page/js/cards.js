/** The list of cards: it follows the shelf, marks what the threshold abstains from, sorts, and shows a part. */

import { createCard } from "./card.js";
import { oncePerFrame } from "./dom.js";

/** @typedef {ReturnType<typeof createCard>} Card */

/** How to sort: the larger number first. @type {Record<string, (picture: import("./shelf.js").Picture) => number>} */
const KEYS = {
  added: (picture) => -picture.number,
  uncertain: (picture) => picture.scores?.percentile ?? -1,
  sure: (picture) => (picture.scores ? 1 - picture.scores.percentile : -1),
  novel: (picture) => picture.scores?.novelty_percentile ?? -1,
};

/**
 * @param {{
 *   list: HTMLElement, sort: HTMLSelectElement, show: HTMLElement, shelf: import("./shelf.js").Shelf,
 *   thumbnails: import("./thumbnails.js").Thumbnails, actions: import("./card.js").Parts,
 * }} parts
 */
export function followShelf({ list, sort, show, shelf, thumbnails, actions }) {
  /** @type {Map<number, Card>} */
  const cards = new Map();

  shelf.onChange((kind, picture) => {
    if (kind === "added") {
      const card = createCard(picture, actions);
      cards.set(picture.number, card);
      list.append(card.element);
      thumbnails.show(card.image, picture.file);
    } else if (kind === "changed") {
      keepingFocus(() => cards.get(picture.number)?.render());
    } else {
      const card = cards.get(picture.number);
      card?.element.remove();
      if (card) thumbnails.forget(card.image);
      cards.delete(picture.number);
    }
    if (kind !== "removed" && sort.value !== "added") arrange();
    count();
  });

  const arrange = oncePerFrame(() => {
    const key = KEYS[sort.value];
    const sorted = [...cards.values()].sort(
      (a, b) => key(b.picture) - key(a.picture) || a.picture.number - b.picture.number,
    );
    keepingFocus(() => list.append(...sorted.map((card) => card.element)));
  });

  const count = oncePerFrame(() => {
    const numbers = { all: cards.size, answered: 0, abstained: 0, failed: 0 };
    for (const { picture } of cards.values()) {
      if (picture.scores) numbers[actions.threshold.exceeded(picture.scores) ? "abstained" : "answered"] += 1;
      else if (picture.state === "failed") numbers.failed += 1;
    }
    for (const [name, number] of Object.entries(numbers)) {
      const label = show.querySelector(`[data-count=${name}]`);
      if (label) label.textContent = String(number);
    }
  });

  sort.addEventListener("change", arrange);
  show.addEventListener("change", (event) => {
    list.dataset.show = /** @type {HTMLInputElement} */ (event.target).value;
  });
  actions.threshold.onChange(() => {
    for (const card of cards.values()) card.decide();
    count();
  });

  /** Draw every card anew, as for another reference set. */
  return () => cards.forEach((card) => card.render());
}

/** Moving or redrawing an element takes the focus from it; give it back to its like. @param {() => void} change */
function keepingFocus(change) {
  const focused = document.activeElement;
  const label = focused?.getAttribute("aria-label");
  change();
  if (!(focused instanceof HTMLElement) || focused === document.activeElement) return;
  if (focused.isConnected) focused.focus({ preventScroll: true });
  else if (label)
    document.querySelector(/** @type {any} */ (`[aria-label="${CSS.escape(label)}"]`))?.focus({ preventScroll: true });
}
