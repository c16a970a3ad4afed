// "More": how the picture is shown, what is done now and then, and whatever has no room in the bar.

import { element, icon } from "../dom.js";
import * as icons from "../icons.js";
import { Popup } from "./popup.js";

/**
 * @typedef {{label: string, icon?: object, run?: () => void, href?: string, isOn?: boolean, why?: string, name: string}} Item
 *   isOn: one of a choice; why: it cannot be done just now, and the reason
 */

export class MoreMenu {
  #popup;

  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.#popup = new Popup(parent, { role: "menu", "aria-label": "More" });
    this.#popup.node.classList.add("viewer-menu");
    this.#popup.node.addEventListener("keydown", (event) => this.#moved(event));
  }

  /** @param {HTMLElement} anchor @param {{title: string, items: Item[]}[]} groups */
  open(anchor, groups) {
    if (this.#popup.isOpen) return this.#popup.close();
    this.#popup.open(anchor, ...groups.filter(({ items }) => items.length).map(({ title, items }) =>
      element("div", { role: "group", "aria-label": title }, element("p", { class: "menu-title", "aria-hidden": "true" }, title), ...items.map((item) => this.#item(item)))));
    this.#items[0]?.focus();
  }

  get #items() {
    return [...this.#popup.node.querySelectorAll("[role^=menuitem]")];
  }

  /** @param {Item} item */
  #item({ label, icon: shapes, run, href, isOn, why, name }) {
    const mark = shapes ? icon(shapes) : isOn ? icon(icons.check) : element("span", { class: "icon" });
    const words = element("span", {}, label, why ? element("small", {}, why) : null);
    const attributes = { class: "menu-item", role: isOn === undefined ? "menuitem" : "menuitemradio", "aria-checked": isOn === undefined ? null : String(isOn), tabindex: "-1", "data-item": name };
    if (href) {
      const link = element("a", { ...attributes, href, target: "_blank", rel: "noopener" }, mark, words);
      link.addEventListener("click", () => this.#popup.close());
      return link;
    }
    const button = element("button", { ...attributes, type: "button", "aria-disabled": why ? "true" : null }, mark, words);
    button.addEventListener("click", () => {
      if (why) return;
      this.#popup.close();
      run();
    });
    return button;
  }

  #moved(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const items = this.#items;
    let next = null;
    if (step) next = items[(items.indexOf(this.#popup.node.getRootNode().activeElement) + step + items.length) % items.length];
    else if (event.key === "Home") next = items[0];
    else if (event.key === "End") next = items.at(-1);
    else if (event.key === "Tab") return this.#popup.close();
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}
