/** The server's HTTP interface, of the bundle that is chosen. */

import { Problem, problemOf, unreachable } from "./problem.js";

/**
 * @typedef {{
 *   uncertainty: number, percentile: number, novelty: number, novelty_percentile: number, abstained: boolean,
 * }} Scores
 * @typedef {{decode: number, queue: number, inference: number}} Timing
 * @typedef {{id: string, uncertainty: number, percentile: number, payload: Record<string, any>}} Item
 * @typedef {Item & {score: number}} Match
 * @typedef {{method?: string, query?: Record<string, any>, body?: BodyInit, json?: any, signal?: AbortSignal}} Options
 * @typedef {ReturnType<typeof createApi>} Api
 */

/**
 * @param {{key: () => string | null, askKey: () => Promise<boolean>}} keys where the API key is, and how to ask for one
 */
export function createApi({ key, askKey }) {
  /** @type {string | null} */
  let bundle = null;

  /** @param {string} path @param {Options} options @returns {Promise<Response>} */
  async function send(path, options) {
    const url = new URL(path, document.baseURI);
    for (const [name, value] of Object.entries({ bundle, ...options.query })) {
      if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
    }
    const headers = new Headers();
    const given = key();
    if (given) headers.set("Authorization", `Bearer ${given}`);
    const body = options.json === undefined ? options.body : JSON.stringify(options.json);
    if (body !== undefined)
      headers.set("Content-Type", options.json === undefined ? "application/octet-stream" : "application/json");
    try {
      return await fetch(url, {
        method: options.method ?? "GET",
        headers,
        body,
        signal: options.signal,
        cache: "no-store",
      });
    } catch (error) {
      options.signal?.throwIfAborted();
      throw unreachable();
    }
  }

  /**
   * @param {string} path
   * @param {Options} [options]
   * @returns {Promise<Response>} an answer that is ok
   * @throws {Problem}
   */
  async function ask(path, options = {}) {
    const response = await send(path, options);
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (problem.status === 401 && (await askKey())) return ask(path, options);
    throw problem;
  }

  /** @param {string} path @param {Options} [options] @returns {Promise<any>} */
  const json = async (path, options) => (await ask(path, options)).json();
  /** @param {string} id */
  const itemPath = (id) => `gallery/${id.split("/").map(encodeURIComponent).join("/")}`;

  return {
    /** Every call from now on is about this bundle. @param {string | null} name */
    choose: (name) => void (bundle = name),
    chosen: () => bundle,
    model: () => json("model"),
    /**
     * The served bundles; none where the server does not list them.
     * @returns {Promise<{default: string, models: any[]}>}
     */
    models: () =>
      json("models").catch((error) => {
        if (error instanceof Problem && error.status === 404) return { default: "", models: [] };
        throw error;
      }),
    metrics: async () => (await ask("metrics")).text(),
    ready: async () => (await send("readyz", {})).ok,
    /** @param {Blob} image @param {AbortSignal} [signal] */
    embed: (image, signal) => json("embed", { method: "POST", query: { encoding: "base64" }, body: image, signal }),
    /** @param {Blob | string} query an image, or an item's id @param {Record<string, any>} options */
    retrieve: (query, options) =>
      typeof query === "string"
        ? json("retrieve", { method: "POST", json: { id: query, ...options } })
        : json("retrieve", { method: "POST", query: asText(options), body: query }),
    policies: async () => (await json("policies")).policies,
    /** @param {Record<string, any>} query */
    page: (query) => json("gallery", { query }),
    /** @param {string} id */
    item: (id) => json(itemPath(id)),
    /** @param {string} id @param {Blob} image @param {object} payload */
    put: (id, image, payload) =>
      json(itemPath(id), { method: "PUT", query: { payload: JSON.stringify(payload) }, body: image }),
    /** @param {string} id @param {object} content `vector`, `uncertainty` and `payload` */
    restore: (id, content) => json(itemPath(id), { method: "PUT", json: content }),
    /** @param {string} id */
    remove: (id) => json(itemPath(id), { method: "DELETE" }),
  };
}

/** Options as query parameters: objects as JSON text. @param {Record<string, any>} options */
function asText(options) {
  return Object.fromEntries(
    Object.entries(options).map(([name, value]) => [
      name,
      value && typeof value === "object" ? JSON.stringify(value) : value,
    ]),
  );
}
