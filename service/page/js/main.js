/** Puts the page together: what the server serves, then the four views, each told of the others only what it needs. */

import { createAddDialog } from "./add.js";
import { createAlbum } from "./album.js";
import { createAnswer } from "./answer.js";
import { createApi } from "./api.js";
import { createBatch } from "./batch.js";
import { createBatchBar } from "./batch-bar.js";
import { offerBundles } from "./bundles.js";
import { followShelf } from "./cards.js";
import { byId } from "./dom.js";
import { bytes } from "./format.js";
import { createGallery } from "./gallery.js";
import { createHealth } from "./health.js";
import { pickImages, takeImages } from "./intake.js";
import { createKeys } from "./key.js";
import { createNotices } from "./notices.js";
import { createPanel } from "./panel.js";
import { Problem } from "./problem.js";
import { createScale } from "./scale.js";
import { createSearch } from "./search.js";
import { createShelf } from "./shelf.js";
import { offerThemes } from "./theme.js";
import { createThreshold, serversPercentile } from "./threshold.js";
import { createThumbnails } from "./thumbnails.js";
import { createToolbar } from "./toolbar.js";
import { createViews } from "./views.js";
import { whenReady } from "./ready.js";

const FIRST_THRESHOLD = 0.9;

const notices = createNotices();
const keys = createKeys();
const api = createApi(keys);
const shelf = createShelf();
const album = createAlbum();
const threshold = createThreshold(FIRST_THRESHOLD);
/** @type {any} what `GET /model` said */
let model;
/** @type {import("./scale.js").Scale} */
let scale;
/** @type {import("./policies.js").Policy[]} */
let policies = [];

offerThemes(byId("theme"));

const bar = createBatchBar({ notices, cancel: () => batch.cancel() });
const batch = createBatch({
  api,
  shelf,
  limit: () => model.limits.max_image_bytes,
  onAnswer: compare,
  onProgress: bar,
});
const answer = createAnswer({ scale: () => scale, album, searchById });
const search = createSearch({
  api,
  threshold,
  policies: () => policies,
  refresh: loadPolicies,
  render: answer,
  notices,
});
const gallery = createGallery({ api, scale: () => scale, album, notices, searchById });
const openAdd = createAddDialog({ api, shelf, album, notices, showGallery: () => views.go("gallery") });
const panel = createPanel({
  shelf,
  threshold,
  scale: () => scale,
  policies: () => policies.filter((each) => each.bundle_hash === model.bundle_hash),
  servers: () => serversPercentile(model.threshold, scale.share),
});
const redraw = followShelf({
  list: byId("cards"),
  sort: /** @type {HTMLSelectElement} */ (byId("sort")),
  show: byId("show"),
  shelf,
  thumbnails: createThumbnails(),
  actions: {
    scale: () => scale,
    threshold,
    search: (picture) => {
      views.go("search");
      search.withImage(picture.file, picture.name);
    },
    add: openAdd,
    remove: (picture) => shelf.remove(picture),
    retry: (picture) => batch.send([picture]),
  },
});
createToolbar({ shelf, threshold, batch });

const views = createViews({
  search: { enter: () => started.then(loadPolicies) },
  gallery: { enter: () => started.then(gallery.load) },
  health: { enter: () => started.then(health.start), leave: () => health.stop() },
});
const health = createHealth({
  api,
  bundle: () => model.bundle,
  visible: () => views.current() === "health" && !document.hidden,
});

/** @param {string} id */
function searchById(id) {
  views.go("search");
  search.withId(id);
}

/**
 * Images that came onto the page: one is the query of the search view, all else goes to the shelf.
 * @param {File[]} files
 */
async function receive(files) {
  if (files.length === 0) return;
  await started;
  if (views.current() === "search") return search.withImage(files[0], files[0].name);
  views.go("images");
  batch.send(files.map((file) => shelf.add(file)));
}

/**
 * A bundle that was replaced while the page is open has another reference set.
 * @param {{bundle_hash: string}} answer
 */
function compare({ bundle_hash }) {
  if (bundle_hash !== model.bundle_hash)
    notices.top(
      "The server serves another version of this bundle by now. Load the page anew: " +
        "its percentiles do not compare with those of before.",
    );
}

/** A key that may only embed, or a server without a gallery, has no policies: nothing else of the page needs them. */
async function loadPolicies() {
  let why = "No policy is certified on this server (candor certify).";
  try {
    policies = await api.policies();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    policies = [];
    why = `${error.title}: ${error.detail}`;
  }
  search.offerPolicies(why);
  panel.show();
}

/** Learn what is served, and draw all that rests on it. */
async function serve() {
  model = await api.model();
  scale = createScale(model.reference);
  const servers = serversPercentile(model.threshold, scale.share);
  if (servers !== null) threshold.set(servers);
  byId("served").textContent = `${model.bundle} · ${model.device}`;
  byId("served").title = `${model.backbone}, ${model.dimension} dimensions, ${model.bundle_hash}`;
  byId("version").textContent = `candor ${model.version}`;
  byId("intake-note").textContent =
    `JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, up to ${bytes(model.limits.max_image_bytes)} each. ` +
    "They go to this server only, which does not keep them.";
  panel.draw();
  await loadPolicies();
}

/** Another bundle has other numbers for everything. */
async function serveAnother() {
  album.clear();
  health.forget();
  await whenReady({ learn: serve, keys, notices });
  redraw();
  batch.send(shelf.all());
  if (views.current() === "gallery") await gallery.load();
}

takeImages({ drop: byId("drop"), receive });
const files = /** @type {HTMLInputElement} */ (byId("files"));
pickImages(byId("choose"), files, receive);
byId("choose-more").addEventListener("click", () => files.click());
addEventListener("dragenter", () => {
  byId("drop-text").textContent =
    views.current() === "search" ? "Drop to search with it" : "Drop to see how sure the model is";
});

async function learn() {
  await offerBundles({ api, onChange: serveAnother });
  await serve();
}

async function start() {
  await whenReady({ learn, keys, notices });
  /** @type {HTMLButtonElement} */ (byId("choose")).disabled = false;
}

const started = start();
views.start();
