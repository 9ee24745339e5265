/** Waiting for a server that is loading or away. */

import { pause } from "./patience.js";
import { Problem } from "./problem.js";

const ASK_AGAIN_MS = 1000;

/**
 * Learn from the server what the page needs, as often as it takes.
 * @param {{learn: () => Promise<void>, keys: {reconsider: () => void}, notices: import("./notices.js").Notices}} parts
 */
export async function whenReady({ learn, keys, notices }) {
  for (;;) {
    try {
      await learn();
      return notices.top();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      notices.top(`${error.title}: ${error.detail}`);
      if (error.status === 401 || error.status === 403) await nextClick(keys);
      else await pause(1000 * (error.retryAfter ?? ASK_AGAIN_MS / 1000), new AbortController().signal);
    }
  }
}

/** Without a key there is nothing to do until the user wants to try again. @param {{reconsider: () => void}} keys */
function nextClick(keys) {
  return new Promise((resolve) => {
    addEventListener(
      "click",
      () => {
        keys.reconsider();
        resolve(undefined);
      },
      { once: true },
    );
  });
}
