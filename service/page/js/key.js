/** The API key: asked for when the server wants one, kept in this tab only. */

import { byId } from "./dom.js";

const NAME = "candor-key";

export function createKeys() {
  const dialog = /** @type {HTMLDialogElement} */ (byId("key-dialog"));
  const input = /** @type {HTMLInputElement} */ (byId("key"));
  /** @type {Promise<boolean> | null} one question for however many calls were refused */
  let asking = null;
  let refused = false; // by the user: asked again when the page is loaded anew, or a key is set

  dialog.querySelector(".cancel")?.addEventListener("click", () => dialog.close());

  /** @returns {Promise<boolean>} whether there is a new key */
  function ask() {
    byId("key-note").textContent = sessionStorage.getItem(NAME)
      ? "The server did not take the key that this tab has."
      : "It is kept in this tab until you close it, and sent to this server only.";
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener(
        "close",
        () => {
          const given = dialog.returnValue === "use" && input.value.trim() !== "";
          if (given) sessionStorage.setItem(NAME, input.value.trim());
          input.value = "";
          refused = !given;
          asking = null;
          resolve(given);
        },
        { once: true },
      );
    });
  }

  return {
    key: () => sessionStorage.getItem(NAME),
    askKey: () => (refused ? Promise.resolve(false) : (asking ??= ask())),
    /** Ask again after all. */
    reconsider: () => void (refused = false),
  };
}
