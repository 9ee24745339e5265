/** What the server says in place of an answer: RFC 9457 `application/problem+json`. */

export class Problem extends Error {
  /**
   * @param {{type: string, title: string, status: number, detail: string, request_id?: string}} fields
   * @param {number | null} [retryAfter] seconds
   */
  constructor(fields, retryAfter = null) {
    super(fields.detail);
    this.type = fields.type;
    this.title = fields.title;
    this.status = fields.status;
    this.detail = fields.detail;
    this.requestId = fields.request_id;
    this.retryAfter = retryAfter;
  }
}

/** No answer at all: worth another try in a second. */
export function unreachable() {
  return new Problem(
    { type: "unreachable", title: "The server cannot be reached", status: 0, detail: "no answer came; is it running?" },
    1,
  );
}

/**
 * An image that is larger than the server takes, known before it is sent.
 * @param {number} size
 * @param {number} limit
 */
export function imageTooLarge(size, limit) {
  const detail = `the image has ${size} bytes and the limit is ${limit}`;
  return new Problem({ type: "image_too_large", title: "The image is too large", status: 413, detail });
}

/**
 * The problem in an answer that is not ok; anything but problem+json, as from a proxy, becomes one.
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
export async function problemOf(response) {
  const header = Number(response.headers.get("retry-after"));
  const retryAfter = header > 0 ? header : null;
  try {
    return new Problem(await response.json(), retryAfter);
  } catch {
    const title = `The server answered ${response.status}`;
    return new Problem(
      { type: "unexpected", title, status: response.status, detail: response.statusText || "no further word" },
      retryAfter,
    );
  }
}

/** @param {unknown} error @returns {error is DOMException} */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}
