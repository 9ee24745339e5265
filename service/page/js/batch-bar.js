/** How far a batch is: a bar, a line of text, and now and then a word to screen readers. */

import { byId } from "./dom.js";
import { counted, whole } from "./format.js";

const TELL_EVERY_MS = 5000;

/**
 * @param {{notices: import("./notices.js").Notices, cancel: () => void}} parts
 * @returns {(progress: import("./batch.js").Progress) => void}
 */
export function createBatchBar({ notices, cancel }) {
  const bar = /** @type {HTMLProgressElement} */ (byId("batch-bar"));
  let told = 0;
  byId("batch-cancel").addEventListener("click", cancel);

  return (progress) => {
    const { total, done, failed, running, waitUntil } = progress;
    byId("batch").hidden = !running;
    bar.max = Math.max(1, total);
    bar.value = done;
    const waits = waitUntil > Date.now() ? "; the server is busy, waiting" : "";
    const text = `${whole(done)} of ${counted(total, "image")}${failed ? `, ${whole(failed)} failed` : ""}${waits}`;
    byId("batch-text").textContent = text;
    const now = Date.now();
    if (!running) notices.announce(`Done: ${text}`);
    else if (now - told > TELL_EVERY_MS) notices.announce(text);
    else return;
    told = now;
  };
}
