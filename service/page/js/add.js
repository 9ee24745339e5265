/** The dialog that adds an image of the page to the gallery, under an id and with a payload. */

import { byId } from "./dom.js";
import { parseObject } from "./items.js";
import { Problem } from "./problem.js";

/**
 * @param {{
 *   api: import("./api.js").Api, shelf: import("./shelf.js").Shelf, album: import("./album.js").Album,
 *   notices: import("./notices.js").Notices, showGallery: () => void,
 * }} parts
 * @returns {(picture: import("./shelf.js").Picture) => void} opens it
 */
export function createAddDialog({ api, shelf, album, notices, showGallery }) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("add-dialog"));
  const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
  const id = /** @type {HTMLInputElement} */ (byId("add-id"));
  const payload = /** @type {HTMLTextAreaElement} */ (byId("add-payload"));
  const error = byId("add-error");
  /** @type {import("./shelf.js").Picture | null} */
  let picture = null;

  dialog.querySelector(".cancel")?.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!picture) return;
    error.textContent = "";
    try {
      await add(picture, id.value, parseObject(payload.value) ?? {});
    } catch (reason) {
      if (!(reason instanceof Problem || reason instanceof SyntaxError)) throw reason;
      error.textContent = reason instanceof Problem ? `${reason.title}: ${reason.detail}` : reason.message;
    }
  });

  /** @param {import("./shelf.js").Picture} added @param {string} as @param {object} content */
  async function add(added, as, content) {
    await api.put(as, added.file, content);
    await album.remember(as, added.file);
    dialog.close(); // before the card is drawn anew: the focus goes back to its button
    shelf.change(added, { addedAs: as });
    notices.say(`${as} is in the gallery.`, { label: "Show gallery", act: showGallery });
  }

  return (chosen) => {
    picture = chosen;
    id.value = chosen.addedAs ?? chosen.name;
    payload.value = "{}";
    error.textContent = "";
    dialog.showModal();
    id.select();
  };
}
