// What was just done, said for a moment over the page. Not for errors: those stay where they happened.

import { element } from "./dom.js";

const SHOWN_MS = 5000;

let toasts = null;

/** @param {string} text one short sentence */
export function toast(text) {
  // There before its first words, or else a screen reader misses them.
  if (!toasts?.isConnected) document.body.append((toasts = element("div", { class: "toasts", role: "status" })));
  const said = element("p", { class: "toast" }, text);
  setTimeout(() => toasts.replaceChildren(said));
  setTimeout(() => said.remove(), SHOWN_MS);
}
