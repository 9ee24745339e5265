/** Sending the images of the shelf to the server, a few at a time, until all are answered or the user cancels. */

import { Problem, imageTooLarge, isAbort } from "./problem.js";
import { createPatience } from "./patience.js";

const LANES = 4;

/**
 * @typedef {import("./shelf.js").Picture} Picture
 * @typedef {{total: number, done: number, failed: number, running: boolean, waitUntil: number}} Progress
 */

/**
 * @param {{
 *   api: import("./api.js").Api, shelf: import("./shelf.js").Shelf,
 *   limit: () => number, onAnswer: (answer: {bundle_hash: string}) => void, onProgress: (progress: Progress) => void,
 * }} parts `limit`: bytes that the server takes of one image
 */
export function createBatch({ api, shelf, limit, onAnswer, onProgress }) {
  /** @type {Picture[]} */
  let queue = [];
  let lanes = 0;
  let control = new AbortController();
  let progress = fresh();
  const patiently = createPatience((until) => report({ waitUntil: until }));

  /** @param {Partial<Progress>} changes */
  function report(changes) {
    progress = { ...progress, ...changes };
    onProgress(progress);
  }

  /** @param {Picture[]} pictures */
  function send(pictures) {
    if (!progress.running) progress = fresh();
    for (const picture of pictures) shelf.change(picture, { state: "waiting", scores: undefined, problem: undefined });
    queue.push(...pictures);
    report({ total: progress.total + pictures.length, running: queue.length > 0 || lanes > 0 });
    while (lanes < LANES && queue.length > 0) void lane();
  }

  async function lane() {
    lanes += 1;
    for (let picture = queue.shift(); picture; picture = queue.shift()) await one(picture, control.signal);
    lanes -= 1;
    if (lanes === 0) report({ running: false });
  }

  /** @param {Picture} picture @param {AbortSignal} signal */
  async function one(picture, signal) {
    shelf.change(picture, { state: "working" });
    try {
      if (picture.file.size > limit()) throw imageTooLarge(picture.file.size, limit());
      const answer = await patiently(() => api.embed(picture.file, signal), signal);
      onAnswer(answer);
      const { embedding, status, ...scores } = answer.results[0];
      shelf.change(picture, { state: "done", scores, timing: answer.timing_ms });
    } catch (error) {
      settle(picture, error);
    }
    report({ done: progress.done + 1 });
  }

  /** @param {Picture} picture @param {unknown} error */
  function settle(picture, error) {
    if (isAbort(error)) return shelf.change(picture, { state: "cancelled" });
    if (!(error instanceof Problem)) throw error;
    shelf.change(picture, { state: "failed", problem: error });
    report({ failed: progress.failed + 1 });
  }

  function cancel() {
    const left = queue;
    queue = [];
    control.abort();
    control = new AbortController();
    for (const picture of left) shelf.change(picture, { state: "cancelled" });
    report({ total: progress.total - left.length });
  }

  return { send, cancel };
}

/** @returns {Progress} */
function fresh() {
  return { total: 0, done: 0, failed: 0, running: false, waitUntil: 0 };
}
