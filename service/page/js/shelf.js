/** The images on the page, in the order they came. */

/**
 * @typedef {"waiting" | "working" | "done" | "failed" | "cancelled"} State
 * @typedef {{
 *   number: number, file: File, name: string, state: State,
 *   scores?: import("./api.js").Scores, timing?: import("./api.js").Timing, problem?: import("./problem.js").Problem,
 *   addedAs?: string,
 * }} Picture
 * @typedef {ReturnType<typeof createShelf>} Shelf
 */

export function createShelf() {
  /** @type {Map<number, Picture>} */
  const pictures = new Map();
  /** @type {((kind: "added" | "changed" | "removed", picture: Picture) => void)[]} */
  const listeners = [];
  let next = 1;

  /** @param {"added" | "changed" | "removed"} kind @param {Picture} picture */
  const tell = (kind, picture) => listeners.forEach((listener) => listener(kind, picture));

  return {
    /** @param {File} file @returns {Picture} */
    add(file) {
      /** @type {Picture} */
      const picture = { number: next, file, name: file.name || `pasted-${next}.png`, state: "waiting" };
      next += 1;
      pictures.set(picture.number, picture);
      tell("added", picture);
      return picture;
    },
    /** @param {Picture} picture @param {Partial<Picture>} changes */
    change(picture, changes) {
      Object.assign(picture, changes);
      if (pictures.has(picture.number)) tell("changed", picture);
    },
    /** @param {Picture} picture */
    remove(picture) {
      if (pictures.delete(picture.number)) tell("removed", picture);
    },
    /** @returns {Picture[]} */
    all: () => [...pictures.values()],
    /** Those that were answered. @returns {(Picture & {scores: import("./api.js").Scores})[]} */
    scored: () => [...pictures.values()].filter(hasScores),
    get size() {
      return pictures.size;
    },
    /** @param {(kind: "added" | "changed" | "removed", picture: Picture) => void} listener */
    onChange: (listener) => void listeners.push(listener),
  };
}

/** @param {Picture} picture @returns {picture is Picture & {scores: import("./api.js").Scores}} */
function hasScores(picture) {
  return picture.scores !== undefined;
}
