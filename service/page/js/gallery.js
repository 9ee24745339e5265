/** The gallery, page by page, from the surest item to the least sure or the other way round. */

import { byId, h, replace } from "./dom.js";
import { counted, percent, raw, whole } from "./format.js";
import { parseObject, payloadOf } from "./items.js";
import { problemBox } from "./notices.js";
import { strip } from "./scale.js";

const PAGE = 50;

/**
 * @typedef {import("./api.js").Item} Item
 * @param {{
 *   api: import("./api.js").Api, scale: () => import("./scale.js").Scale, album: import("./album.js").Album,
 *   notices: import("./notices.js").Notices, searchById: (id: string) => void,
 * }} parts
 */
export function createGallery({ api, scale, album, notices, searchById }) {
  const id = /** @type {HTMLInputElement} */ (byId("gallery-id"));
  const filter = /** @type {HTMLInputElement} */ (byId("gallery-filter"));
  const order = /** @type {HTMLSelectElement} */ (byId("gallery-order"));
  const list = byId("gallery-items");
  let page = 0;
  let latest = 0;

  async function load() {
    const number = ++latest;
    list.setAttribute("aria-busy", "true");
    try {
      const shown = id.value.trim() ? await one(id.value.trim()) : await some();
      if (number === latest) show(shown);
    } catch (error) {
      if (number !== latest) return;
      byId("pager").hidden = true;
      replace(
        list,
        error instanceof SyntaxError ? h("p", { class: "error", role: "alert" }, error.message) : problemBox(error),
      );
    } finally {
      if (number === latest) list.removeAttribute("aria-busy");
    }
  }

  /** @param {string} item */
  async function one(item) {
    const [head, found] = await Promise.all([api.page({ limit: 0 }), api.item(item)]);
    return { ...head, items: [found], from: 0, passing: 1 };
  }

  async function some() {
    const where = filter.value.trim() ? { filter: JSON.stringify(parseObject(filter.value)) } : {};
    if (order.value === "sure")
      return { ...(await api.page({ ...where, limit: PAGE, offset: page * PAGE })), from: page * PAGE };
    const { passing } = await api.page({ ...where, limit: 0 });
    const end = Math.max(0, passing - page * PAGE); // pages from the far end, turned round
    const found = await api.page({ ...where, limit: Math.min(PAGE, end), offset: Math.max(0, end - PAGE) });
    return { ...found, items: found.items.reverse(), from: page * PAGE };
  }

  /**
   * @param {{
   *   count: number, passing: number, engine: string, dimension: number, bundle: string, items: Item[], from: number,
   * }} shown
   */
  function show({ count, passing, engine, dimension, bundle, items, from }) {
    byId("gallery-lead").textContent =
      `${counted(count, "item")} of bundle ${bundle}, ${dimension} dimensions, kept in ${engine}.`;
    byId("pager").hidden = passing <= PAGE;
    byId("page-text").textContent = `${whole(from + 1)}–${whole(from + items.length)} of ${whole(passing)}`;
    button("page-before").disabled = from === 0;
    button("page-after").disabled = from + items.length >= passing;
    replace(list, items.length > 0 ? table(items) : empty(count));
  }

  /** @param {number} count */
  function empty(count) {
    if (count > 0) return h("p", { class: "blank" }, "No item passes the filter.");
    return h(
      "p",
      { class: "blank" },
      "The gallery is empty. Drop images on ",
      h("a", { href: "#images" }, "Images"),
      " and add them, or fill it with ",
      h("code", {}, "candor gallery add"),
      ".",
    );
  }

  /** @param {Item[]} items */
  function table(items) {
    const head = ["Item", "Percentile", "Uncertainty", "Payload", "Actions"].map((title) =>
      h("th", { scope: "col" }, title),
    );
    return h(
      "table",
      { class: "items" },
      h("caption", { class: "hidden" }, "Items of the gallery"),
      h("thead", {}, h("tr", {}, ...head)),
      h("tbody", {}, ...items.map(row)),
    );
  }

  /** @param {Item} item */
  function row(item) {
    const share = percent(item.percentile);
    return h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        h("div", { class: "item-id" }, album.picture(item.id), h("span", { class: "name", title: item.id }, item.id)),
      ),
      h(
        "td",
        { class: "item-percentile" },
        h("b", {}, share),
        strip(scale(), item.uncertainty, `More uncertain than ${share} of the reference set`),
      ),
      h("td", { class: "number" }, raw(item.uncertainty)),
      h("td", {}, payloadOf(item.payload)),
      h(
        "td",
        { class: "item-actions" },
        h(
          "button",
          { type: "button", "aria-label": `Search with ${item.id}`, onclick: () => searchById(item.id) },
          "Search",
        ),
        h(
          "button",
          { type: "button", class: "danger", "aria-label": `Delete ${item.id}`, onclick: () => remove(item.id) },
          "Delete",
        ),
      ),
    );
  }

  /** @param {string} item */
  async function remove(item) {
    try {
      const { embedding, uncertainty, payload } = await api.item(item);
      await api.remove(item);
      await load();
      list.focus();
      notices.say(
        `${item} is deleted.`,
        { label: "Undo", act: () => restore(item, { vector: embedding, uncertainty, payload }) },
        "lasting",
      );
    } catch (error) {
      notices.fail(error);
    }
  }

  /** @param {string} item @param {{vector: number[], uncertainty: number, payload: object}} content */
  async function restore(item, content) {
    try {
      await api.restore(item, content);
      notices.say(`${item} is back.`);
      await load();
    } catch (error) {
      notices.fail(error);
    }
  }

  /** @param {number} to */
  function turn(to) {
    page = to;
    return load();
  }

  byId("gallery-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void turn(0);
  });
  order.addEventListener("change", () => turn(0));
  byId("page-before").addEventListener("click", () => turn(page - 1));
  byId("page-after").addEventListener("click", () => turn(page + 1));
  return { load };
}

/** @param {string} id */
function button(id) {
  return /** @type {HTMLButtonElement} */ (byId(id));
}
