/** Small copies of images, made when they come into view, so that hundreds cost neither memory nor a frozen page. */

const SIDE = 360;
const LANES = 2;

/**
 * A small copy, upright, or null where the browser cannot read the format.
 * @param {Blob} image
 * @returns {Promise<Blob | null>}
 */
export async function shrink(image) {
  try {
    const bitmap = await createImageBitmap(image, { resizeWidth: SIDE, resizeQuality: "medium" });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
    bitmap.close();
    return await canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
  } catch {
    return null;
  }
}

/** @typedef {ReturnType<typeof createThumbnails>} Thumbnails */

export function createThumbnails() {
  /** @type {Map<Element, Blob>} */
  const wanted = new Map();
  /** @type {Map<Element, string>} */
  const made = new Map();
  /** @type {HTMLImageElement[]} */
  const queue = [];
  let lanes = 0;

  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        queue.push(/** @type {HTMLImageElement} */ (entry.target));
      }
      while (lanes < LANES && queue.length > 0) void lane();
    },
    { rootMargin: "300px" },
  );

  async function lane() {
    lanes += 1;
    for (let img = queue.shift(); img; img = queue.shift()) await make(img);
    lanes -= 1;
  }

  /** @param {HTMLImageElement} img */
  async function make(img) {
    const source = wanted.get(img);
    const small = source && (await shrink(source));
    if (!wanted.delete(img)) return; // removed meanwhile
    if (!small) return img.remove();
    const url = URL.createObjectURL(small);
    made.set(img, url);
    img.src = url;
  }

  return {
    /** Fill an image once it comes into view. @param {HTMLImageElement} img @param {Blob} source */
    show(img, source) {
      wanted.set(img, source);
      seen.observe(img);
    },
    /** Give back what an image took. @param {HTMLImageElement} img */
    forget(img) {
      seen.unobserve(img);
      wanted.delete(img);
      const url = made.get(img);
      if (url) URL.revokeObjectURL(url);
      made.delete(img);
    },
  };
}
