// The names behind "2 watching".

import { serverNow } from "../api.js";
import { element } from "../dom.js";
import { duration, exactly } from "../session.js";
import { Popup } from "./popup.js";

export class WatchersList {
  #popup;

  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.#popup = new Popup(parent, { role: "dialog", "aria-label": "Who is watching", tabindex: "-1" });
  }

  /** @param {HTMLElement} anchor @param {import("./watchers.js").StreamOf[]} streams */
  open(anchor, streams) {
    if (this.#popup.isOpen) return this.#popup.close();
    this.#popup.open(anchor, element("ul", { class: "watchers-list" }, ...streams.map(row)));
    this.#popup.node.focus();
  }
}

/** @param {import("./watchers.js").StreamOf} stream */
function row({ name, role, kind, opened_at: at }) {
  const what = kind === "devtools" ? "DevTools" : role === "control" ? "may control" : "view only";
  return element("li", {}, element("span", { class: "watcher-name", dir: "auto" }, name), element("span", { title: exactly(at) }, `${what} · for ${duration(serverNow() - Date.parse(at))}`));
}
