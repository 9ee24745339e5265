/** The health view: `/metrics` read every other second, while anybody looks. */

import { byId, h, replace, s } from "./dom.js";
import { counted, duration, percent, whole } from "./format.js";
import { mean, ofBundle, parseMetrics, quantile, select, since, total } from "./metrics.js";
import { problemBox } from "./notices.js";

const EVERY_MS = 2000;
const WINDOW_MS = 60_000;
const OWN = ["/metrics", "/readyz", "/healthz"]; // of who watches, this page too: no traffic

/**
 * @typedef {import("./metrics.js").Sample} Sample
 * @typedef {{at: number, samples: Sample[]}} Reading
 * @param {{api: import("./api.js").Api, bundle: () => string, visible: () => boolean}} parts
 */
export function createHealth({ api, bundle, visible }) {
  /** @type {Reading[]} */
  let readings = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;

  async function poll() {
    clearTimeout(timer);
    if (!visible()) return;
    try {
      const now = Date.now();
      readings.push({ at: now, samples: parseMetrics(await api.metrics()) });
      readings = readings.filter(({ at }) => now - at <= WINDOW_MS);
      show();
    } catch (error) {
      replace(byId("health-lead"), problemBox(error));
    }
    clearTimeout(timer);
    if (visible()) timer = setTimeout(poll, EVERY_MS);
  }

  function show() {
    const last = readings[readings.length - 1];
    const now = ofBundle(last.samples, bundle());
    const recent = ofBundle(since(readings[0].samples, last.samples), bundle());
    const seconds = (last.at - readings[0].at) / 1000;
    const lead = leadOf(now);
    if (byId("health-lead").textContent !== lead) byId("health-lead").textContent = lead;
    replace(byId("health-tiles"), ...tilesOf(now, recent, seconds));
    rates();
    replace(byId("health-routes"), routesOf(now));
  }

  function rates() {
    const points = readings
      .slice(1)
      .map((reading, i) => rate(since(readings[i].samples, reading.samples), (reading.at - readings[i].at) / 1000));
    const most = Math.max(1, ...points);
    const span = Math.max(1, WINDOW_MS / EVERY_MS - 1);
    const line = points
      .map((value, i) => `${(100 * (span - points.length + 1 + i)) / span} ${98 - (92 * value) / most}`)
      .join("L");
    replace(
      byId("health-rate"),
      s(
        "svg",
        { class: "line", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" },
        points.length > 1 && s("path", { d: `M${line}` }),
      ),
    );
    const text = `Requests a second over the last minute; the top is ${most.toFixed(1)}.`;
    byId("health-rate").setAttribute("aria-label", text);
    byId("health-caption").textContent = text;
  }

  document.addEventListener("visibilitychange", poll);
  return { start: poll, stop: () => clearTimeout(timer), forget: () => void (readings = []) };
}

/** @param {Sample[]} samples @param {number} seconds */
function rate(samples, seconds) {
  return seconds > 0 ? requests(samples) / seconds : 0;
}

/** @param {Sample[]} samples */
function requests(samples) {
  return traffic(select(samples, "candor_requests_total")).reduce((sum, sample) => sum + sample.value, 0);
}

/** @param {Sample[]} samples */
function traffic(samples) {
  return samples.filter(
    ({ labels }) => !OWN.includes(labels.route) && labels.route !== "/" && !labels.route?.startsWith("/page/"),
  );
}

/** @param {Sample[]} now */
function leadOf(now) {
  const info = select(now, "candor_model_info")[0]?.labels;
  const ready = total(now, "candor_ready") > 0 ? "Ready." : "Not ready.";
  return info
    ? `${ready} Bundle ${info.bundle}, ${info.backbone} on ${info.device}, ${info.hash.slice(0, 15)}…`
    : ready;
}

/** @param {Sample[]} now @param {Sample[]} recent @param {number} seconds */
function tilesOf(now, recent, seconds) {
  const latest = traffic(recent);
  const all = traffic(now);
  const some = total(latest, "candor_request_seconds_count") > 0 ? latest : all;
  const when = some === latest ? "last minute" : "since the start";
  const images = total(now, "candor_images_total");
  const answered = total(now, "candor_images_total", { outcome: "ok" });
  const abstained = total(now, "candor_abstentions_total");
  const items = select(now, "candor_gallery_items")[0]?.value ?? NaN;
  return [
    tile("Requests", `${rate(recent, seconds).toFixed(1)} /s`, `${whole(requests(now))} since the start`),
    tile("Median latency", duration(quantile(some, "candor_request_seconds", 0.5)), when),
    tile("99th percentile", duration(quantile(some, "candor_request_seconds", 0.99)), when),
    tile(
      "Queue",
      whole(total(now, "candor_queue_images")),
      `images; in flight: ${counted(total(now, "candor_requests_in_flight"), "request")}`,
    ),
    tile("Batch", numberOr(mean(now, "candor_batch_size")), "images per inference"),
    tile("Images", whole(images), `${whole(images - answered)} refused or failed`),
    tile(
      "Abstentions",
      answered > 0 ? percent(abstained / answered) : "–",
      `${whole(abstained)} by requests, of ${whole(answered)} images`,
    ),
    tile("Gallery", Number.isNaN(items) ? "–" : whole(items), "items"),
  ];
}

/** @param {number} value */
function numberOr(value) {
  return Number.isNaN(value) ? "–" : value.toFixed(1);
}

/** @param {string} name @param {string} value @param {string} note */
function tile(name, value, note) {
  return h(
    "div",
    { class: "tile" },
    h("dt", {}, name),
    h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "note" }, note)),
  );
}

/** @param {Sample[]} now */
function routesOf(now) {
  const keys = new Set(
    traffic(select(now, "candor_requests_total")).map(({ labels }) => `${labels.method} ${labels.route}`),
  );
  const rows = [...keys].sort().map((key) => {
    const [method, route] = key.split(" ");
    const statuses = select(now, "candor_requests_total", { method, route });
    const failed = statuses
      .filter(({ labels }) => Number(labels.status) >= 400)
      .reduce((sum, { value }) => sum + value, 0);
    const cells = [
      whole(total(statuses, "candor_requests_total")),
      whole(failed),
      duration(quantile(now, "candor_request_seconds", 0.5, { method, route })),
      duration(quantile(now, "candor_request_seconds", 0.99, { method, route })),
    ];
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, key)),
      ...cells.map((cell) => h("td", { class: "number" }, cell)),
    );
  });
  if (rows.length === 0) return h("p", { class: "blank" }, "No request has been answered yet.");
  const head = ["Endpoint", "Requests", "Errors", "Median", "99th percentile"].map((title, i) =>
    h("th", { scope: "col", class: i ? "number" : null }, title),
  );
  return h(
    "table",
    { class: "routes" },
    h("caption", { class: "hidden" }, "Requests by endpoint, since the start"),
    h("thead", {}, h("tr", {}, ...head)),
    h("tbody", {}, ...rows),
  );
}
