/** The choice among several bundles, where the server has more than one. */

import { byId, h, replace } from "./dom.js";

/** @param {{api: import("./api.js").Api, onChange: () => Promise<void>}} parts */
export async function offerBundles({ api, onChange }) {
  const served = await api.models();
  const select = /** @type {HTMLSelectElement} */ (byId("bundle"));
  if (served.models.length < 2) return;
  replace(
    select,
    ...served.models.map(({ bundle }) => h("option", { value: bundle, selected: bundle === served.default }, bundle)),
  );
  byId("bundles").hidden = false;
  select.onchange = () => {
    api.choose(select.value);
    return onChange();
  };
}
