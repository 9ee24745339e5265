/** Parts that lists of items share. */

import { h } from "./dom.js";

/** A payload, one field a chip. @param {Record<string, any>} payload */
export function payloadOf(payload) {
  const fields = Object.entries(payload);
  if (fields.length === 0) return h("span", { class: "note" }, "no payload");
  return h(
    "ul",
    { class: "chips" },
    ...fields.map(([name, value]) =>
      h("li", {}, h("b", {}, name), ` ${typeof value === "string" ? value : JSON.stringify(value)}`),
    ),
  );
}

/**
 * A JSON object that somebody typed; null for nothing.
 * @param {string} text
 * @returns {Record<string, any> | null}
 * @throws {SyntaxError} with what to do
 */
export function parseObject(text) {
  if (text.trim() === "") return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`This is not JSON: ${/** @type {Error} */ (error).message}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw new SyntaxError('A JSON object is needed, such as {"camera": "north"}.');
  return value;
}
