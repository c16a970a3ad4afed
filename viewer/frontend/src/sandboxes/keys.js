// What the keys of the list do.

import { element } from "../dom.js";

const KEYS = [
  ["j", "↓", "Next desktop"],
  ["k", "↑", "Previous desktop"],
  ["Enter", "", "Open it"],
  ["x", "", "Choose it, for several at once"],
  ["/", "", "Search"],
  ["n", "", "New desktop"],
  ["Esc", "", "Leave the search, or drop what is chosen"],
  ["?", "", "These keys"],
];

export class KeysDialog {
  #box = element("dialog", { class: "dialog", "aria-labelledby": "keys-title" });

  /** @param {{mayCreate: boolean, mayChoose: boolean}} options */
  constructor({ mayCreate, mayChoose }) {
    const offered = KEYS.filter(([key]) => (key !== "n" || mayCreate) && (key !== "x" || mayChoose));
    const rows = offered.map(([key, other, meaning]) => element("div", {}, element("dt", {}, element("kbd", {}, key), other && " ", other && element("kbd", {}, other)), element("dd", {}, meaning)));
    const close = element("button", { class: "button", type: "button" }, "Close");
    close.addEventListener("click", () => this.#box.close());
    this.#box.append(element("h2", { id: "keys-title" }, "Keys"), element("dl", { class: "keys" }, ...rows), element("div", { class: "dialog-actions" }, close));
    document.body.append(this.#box);
  }

  open() {
    this.#box.showModal();
  }
}
