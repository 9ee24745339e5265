/** Why candor abstains, in plain words. */

/** Without a policy: thresholds of the request or the server. @type {Record<string, string>} */
const BY_THRESHOLD = {
  uncertain_query: "The query is more uncertain than the threshold allows, so the gallery was not searched.",
  no_close_match: "No item is left: none passes the filter, the limit on uncertainty and the least score together.",
};

/** With a policy: what speaks most against the best match. @type {Record<string, string>} */
const BY_POLICY = {
  uncertain_query: "The query itself is too uncertain.",
  no_close_match: "The best match is not close enough to the query.",
  ambiguous_match: "Other items are about as close as the best match: it could be any of them.",
  novel_query: "The query is unlike the images that the model was trained on.",
  uncertain_match: "The best match is an uncertain image itself.",
};

/** @param {string} reason @param {boolean} byPolicy */
export function reasonInWords(reason, byPolicy) {
  return (byPolicy ? BY_POLICY : { ...BY_POLICY, ...BY_THRESHOLD })[reason] ?? reason.replaceAll("_", " ");
}

/**
 * What each condition took out of the nearest items.
 * @param {{by_filter: number, by_uncertainty: number, by_score: number}} removed
 */
export function removedInWords(removed) {
  const parts = [
    removed.by_filter && `${removed.by_filter} by the filter`,
    removed.by_uncertainty && `${removed.by_uncertainty} by uncertainty`,
    removed.by_score && `${removed.by_score} by the least score`,
  ].filter(Boolean);
  return parts.length > 0 ? `Left out of the nearest items: ${parts.join(", ")}.` : "";
}
