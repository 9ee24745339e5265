/** Sending much without sending too much: so many at a time, and none before the server's `Retry-After` is over. */

import { Problem } from "./problem.js";

const MOST_TRIES = 20;
const MOST_UNANSWERED = 3; // a network may hiccup; a server that is away is told soon

/**
 * Wait, or throw once the signal is aborted.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/**
 * A wait that all callers share: where one is told to come back later, none is sent before.
 * @param {(until: number) => void} onWait told when the wait ends, in milliseconds of the epoch
 */
export function createPatience(onWait) {
  let until = 0;
  /**
   * @template T
   * @param {() => Promise<T>} call
   * @param {AbortSignal} signal
   * @returns {Promise<T>}
   */
  return async function patiently(call, signal) {
    for (let tries = 1; ; tries++) {
      while (until > Date.now()) await pause(until - Date.now(), signal);
      try {
        return await call();
      } catch (error) {
        if (
          !(error instanceof Problem) ||
          error.retryAfter === null ||
          tries >= (error.status ? MOST_TRIES : MOST_UNANSWERED)
        )
          throw error;
        until = Math.max(until, Date.now() + 1000 * error.retryAfter);
        onWait(until);
      }
    }
  };
}
