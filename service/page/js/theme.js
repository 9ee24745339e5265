/** Light, dark, or as the system says. */

const NAME = "candor-theme";
const NEXT = /** @type {const} */ ({ auto: "light", light: "dark", dark: "auto" });
const LABEL = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };

/** @typedef {keyof typeof NEXT} Theme */

/** @param {HTMLElement} button that goes round the three */
export function offerThemes(button) {
  const root = document.documentElement;
  const current = () => /** @type {Theme} */ (root.dataset.theme ?? "auto");

  /** @param {Theme} theme */
  function choose(theme) {
    if (theme === "auto") {
      delete root.dataset.theme;
      localStorage.removeItem(NAME);
    } else {
      root.dataset.theme = theme;
      localStorage.setItem(NAME, theme);
    }
    button.textContent = LABEL[theme];
  }

  button.addEventListener("click", () => choose(NEXT[current()]));
  choose(current());
}
