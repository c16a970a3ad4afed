// A text to take along, with a button that copies it.

import { element } from "./dom.js";

/**
 * @param {string} text @param {string} label says what it is
 * @param {{lines?: boolean}} [how] `lines`: it has several
 */
export function copyField(text, label, { lines = false } = {}) {
  const shown = lines
    ? element("pre", { tabindex: "0", role: "group", "aria-label": label }, text)
    : element("input", { type: "text", readonly: true, spellcheck: "false", autocomplete: "off", "aria-label": label });
  if (!lines) shown.value = text;
  return element("div", { class: "copy" }, shown, copyButton(() => text, label, shown));
}

/** @param {() => string} textOf @param {string} label @param {HTMLElement} [shown] is selected for those whose browser forbids to copy */
export function copyButton(textOf, label, shown) {
  const button = element("button", { type: "button", class: "button", "aria-label": `Copy: ${label}` }, "Copy");
  button.addEventListener("click", async () => {
    if (shown) select(shown);
    try {
      await navigator.clipboard.writeText(textOf());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl C";
    }
  });
  return button;
}

function select(shown) {
  if (shown instanceof HTMLInputElement) return shown.select();
  getSelection().selectAllChildren(shown);
}
