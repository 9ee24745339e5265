/** What can be done with all images together. */

import { byId } from "./dom.js";
import { asCsv, download, rowsOf } from "./exports.js";

/**
 * @param {{
 *   shelf: import("./shelf.js").Shelf, threshold: import("./threshold.js").Threshold,
 *   batch: {send: (pictures: import("./shelf.js").Picture[]) => void, cancel: () => void},
 * }} parts
 */
export function createToolbar({ shelf, threshold, batch }) {
  const unanswered = () => shelf.all().filter(({ state }) => state === "failed" || state === "cancelled");

  shelf.onChange(() => {
    const some = shelf.size > 0;
    byId("panel").hidden = byId("toolbar").hidden = !some;
    byId("intake").hidden = some;
    byId("retry").hidden = unanswered().length === 0;
  });

  byId("retry").addEventListener("click", () => batch.send(unanswered()));
  byId("clear").addEventListener("click", () => {
    batch.cancel();
    for (const picture of shelf.all()) shelf.remove(picture);
    byId("choose").focus();
  });
  byId("export-csv").addEventListener("click", () =>
    download("candor.csv", "text/csv", asCsv(rowsOf(shelf.all(), threshold))),
  );
  byId("export-json").addEventListener("click", () =>
    download("candor.json", "application/json", JSON.stringify(rowsOf(shelf.all(), threshold), null, 2)),
  );
}
