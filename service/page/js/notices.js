/** What the page tells the user aside: a line for screen readers, messages in a corner, and one notice on top. */

import { byId, h, replace } from "./dom.js";
import { Problem } from "./problem.js";

const PASSING_MS = 8000;

/** @typedef {ReturnType<typeof createNotices>} Notices */

export function createNotices() {
  const announcer = byId("announcer");
  const toasts = byId("toasts");
  const notice = byId("notice");

  /**
   * A message until it is closed or another comes; a passing one leaves by itself, unless someone is at it.
   * @param {string} text
   * @param {{label: string, act: () => void} | null} [action]
   * @param {"passing" | "lasting" | "error"} [kind]
   */
  function say(text, action = null, kind = "passing") {
    const close = () => toast.remove();
    const act = () => {
      close();
      action?.act();
    };
    const toast = h(
      "div",
      { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" },
      h("span", {}, text),
      action && h("button", { type: "button", onclick: act }, action.label),
      h("button", { class: "icon", type: "button", "aria-label": "Close message", onclick: close }, "×"),
    );
    replace(toasts, toast);
    if (kind === "passing") setTimeout(() => toast.matches(":hover, :focus-within") || close(), PASSING_MS);
  }

  return {
    say,
    /** Say it to screen readers only. @param {string} text */
    announce(text) {
      announcer.textContent = text;
    },
    /** Show what went wrong; anything but a problem is a defect, and thrown on. @param {unknown} error */
    fail(error) {
      if (!(error instanceof Problem)) throw error;
      say(`${error.title}: ${error.detail}`, null, "error");
    },
    /** A line on top of every view; none hides it. @param {string} [text] */
    top(text = "") {
      if (notice.textContent !== text) notice.textContent = text;
      notice.hidden = text === "";
    },
  };
}

/** A problem in the place of what was asked for. @param {unknown} error */
export function problemBox(error) {
  if (!(error instanceof Problem)) throw error;
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("p", { class: "problem-title" }, error.title),
    h("p", { class: "problem-detail" }, error.detail),
    h(
      "p",
      { class: "timing" },
      [error.status || null, error.type, error.requestId && `request ${error.requestId}`].filter(Boolean).join(" · "),
    ),
  );
}
