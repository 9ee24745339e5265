/** Small pictures of the items that were added from this page: the gallery itself keeps no pixels. */

import { h } from "./dom.js";
import { shrink } from "./thumbnails.js";

/** @typedef {ReturnType<typeof createAlbum>} Album */

export function createAlbum() {
  /** @type {Map<string, string>} */
  const urls = new Map();

  /** @param {string} id */
  function forget(id) {
    const url = urls.get(id);
    if (url) URL.revokeObjectURL(url);
    urls.delete(id);
  }

  return {
    /** @param {string} id @param {Blob} image */
    async remember(id, image) {
      const small = await shrink(image);
      forget(id);
      if (small) urls.set(id, URL.createObjectURL(small));
    },
    forget,
    clear: () => [...urls.keys()].forEach(forget),
    /** The item's picture, or an empty frame. @param {string} id */
    picture: (id) =>
      h(
        "span",
        { class: "mini", title: urls.has(id) ? null : "The gallery keeps no pixels" },
        urls.has(id) && h("img", { src: urls.get(id), alt: "" }),
      ),
  };
}
