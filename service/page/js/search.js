/** The search form: a query (an image or an item's id) and how to decide on its matches. */

import { byId, h, replace } from "./dom.js";
import { pickImages } from "./intake.js";
import { parseObject } from "./items.js";
import { problemBox } from "./notices.js";
import { evidenceOf, promiseOf, standingOf } from "./policies.js";

const ALONE = "It takes no conditions beside it.";

/**
 * @typedef {import("./policies.js").Policy} Policy
 * @typedef {import("./policies.js").Target} Target
 * @param {{
 *   api: import("./api.js").Api, threshold: import("./threshold.js").Threshold, policies: () => Policy[],
 *   refresh: () => Promise<void>,
 *   render: (answer: any, asked: {limit: number, policy?: string}) => Node[], notices: import("./notices.js").Notices,
 * }} parts
 */
export function createSearch({ api, threshold, policies, refresh, render, notices }) {
  const form = /** @type {HTMLFormElement} */ (byId("search-form"));
  const id = input("query-id");
  const policy = /** @type {HTMLSelectElement} */ (byId("policy"));
  /** @type {{image: Blob, name: string, url: string} | null} */
  let query = null;
  /** @type {[Policy, Target][]} */
  let choices = [];
  let none = "";
  let latest = 0; // an answer that was overtaken is dropped

  /** @param {{image: Blob, name: string} | null} image */
  function ask(image) {
    if (query) URL.revokeObjectURL(query.url);
    query = image && { ...image, url: URL.createObjectURL(image.image) };
    if (query) id.value = "";
    replace(
      byId("query"),
      ...(query
        ? preview(query)
        : [h("p", { class: "note" }, "Drop or paste an image here, or take one from Images.")]),
    );
  }

  /** @param {string} why where there are none */
  function offerPolicies(why) {
    none = why;
    choices = policies().flatMap((each) =>
      each.targets.map((target) => /** @type {[Policy, Target]} */ ([each, target])),
    );
    const chosen = policy.value;
    const options = choices.map(([each, target], i) =>
      h("option", { value: i, disabled: !target.feasible }, `policy ${each.name}: ${promiseOf(target)}`),
    );
    replace(policy, h("option", { value: "" }, "thresholds"), ...options);
    policy.value = choices[Number(chosen)] && chosen !== "" ? chosen : "";
    explain();
  }

  function explain() {
    const [each, target] = choice() ?? [];
    /** @type {HTMLFieldSetElement} */ (byId("conditions")).disabled = each !== undefined;
    input("score").disabled = each !== undefined;
    byId("promise").textContent =
      each && target
        ? [standingOf({ status: each.status, reasons: each.status_reasons }), evidenceOf(target), ALONE].join(" ")
        : policies().length === 0
          ? none
          : "";
  }

  /** @returns {[Policy, Target] | undefined} */
  const choice = () => (policy.value === "" ? undefined : choices[Number(policy.value)]);

  function options() {
    const [each, target] = choice() ?? [];
    const limit = input("limit").valueAsNumber || 10;
    if (each && target) return { limit, policy: each.name, alpha: target.alpha, delta: target.delta, k: target.k };
    return {
      limit,
      ...given("score_threshold", input("score").valueAsNumber),
      ...(input("use-threshold").checked ? { max_query_percentile: threshold.percentile } : {}),
      ...given("max_result_percentile", input("max-result").valueAsNumber / 100),
      ...(input("filter").value.trim() ? { filter: parseObject(input("filter").value) } : {}),
    };
  }

  async function search() {
    const answer = byId("answer");
    const number = ++latest;
    try {
      const asked = options();
      const subject = id.value.trim() || query?.image;
      if (!subject) throw new SyntaxError("Choose an image, or write an item's id.");
      answer.setAttribute("aria-busy", "true");
      const found = await api.retrieve(subject, asked);
      if (number !== latest) return;
      replace(answer, ...render(found, asked));
      if (asked.policy && found.guarantee.status !== choice()?.[0].status) await refresh();
      const below = answer.getBoundingClientRect().top > innerHeight / 2; // as on a narrow screen
      if (below) answer.scrollIntoView();
      notices.announce(`${found.decision === "match" ? "Match" : "Abstained"}, ${found.matches.length} items found.`);
    } catch (error) {
      if (number !== latest) return;
      const box =
        error instanceof SyntaxError ? h("p", { class: "error", role: "alert" }, error.message) : problemBox(error);
      replace(answer, box);
    } finally {
      if (number === latest) answer.removeAttribute("aria-busy");
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void search();
  });
  id.addEventListener("input", () => id.value && ask(null));
  policy.addEventListener("change", explain);
  pickImages(byId("query-choose"), input("query-file"), ([file]) => file && withImage(file, file.name));
  ask(null);

  /** @param {Blob} image @param {string} name */
  function withImage(image, name) {
    ask({ image, name });
    void search();
  }

  return {
    offerPolicies,
    withImage,
    /** @param {string} item */
    withId(item) {
      ask(null);
      id.value = item;
      void search();
    },
  };
}

/** @param {string} id */
function input(id) {
  return /** @type {HTMLInputElement} */ (byId(id));
}

/** @param {string} name @param {number} value NaN where nothing was written */
function given(name, value) {
  return Number.isNaN(value) ? {} : { [name]: value };
}

/** @param {{name: string, url: string}} query */
function preview({ name, url }) {
  const image = h("img", { src: url, alt: "" });
  image.addEventListener("error", () => image.remove());
  return [image, h("p", { class: "name", title: name }, name)];
}
