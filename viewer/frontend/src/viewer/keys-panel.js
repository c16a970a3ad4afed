// Keys that a browser keeps for itself or a phone does not have: sent one by one, or held down until they are let go.

import { element } from "../dom.js";
import { KEYS, press } from "./keysyms.js";
import { TouchKeyboard } from "./touch-keyboard.js";

const HELD = [["Ctrl", "Control"], ["Alt", "Alt"], ["Super", "Meta"]];
const SENT = [["Esc", "Escape"], ["Tab", "Tab"]];
const FUNCTION_KEYS = Array.from({ length: 12 }, (_, at) => `F${at + 1}`);
const KASMVNC = "The desktop's own page takes the keyboard while you have control. Keys that this browser keeps to itself cannot be sent to it from here.";

export class KeysPanel {
  /** @type {Map<string, HTMLButtonElement>} keys held down, by name */
  #held = new Map();
  #stream = null;

  /** @param {{closed: () => void}} acts */
  constructor({ closed }) {
    this.closed = closed;
    this.keyboard = new TouchKeyboard((...key) => this.#stream?.sendKey(...key));
    const touch = element("button", { type: "button", class: "button small", "data-key": "keyboard" }, "Keyboard");
    touch.addEventListener("click", () => this.keyboard.open());
    const cad = element("button", { type: "button", class: "button small", "data-key": "ctrl-alt-del" }, "Ctrl Alt Del");
    cad.addEventListener("click", () => this.#ctrlAltDel());
    const functionKeys = element("span", { class: "keys-group", role: "group", "aria-label": "Function keys", hidden: true }, ...FUNCTION_KEYS.map((name) => this.#sender(name, name)));
    const more = element("button", { type: "button", class: "button small", "aria-expanded": "false" }, "F1–F12");
    more.addEventListener("click", () => {
      functionKeys.hidden = !functionKeys.hidden;
      more.setAttribute("aria-expanded", String(!functionKeys.hidden));
    });
    this.keys = element("div", { class: "keys-row" },
      element("span", { class: "keys-group", role: "group", "aria-label": "Held until pressed again" }, ...HELD.map(([label, name]) => this.#holder(label, name))),
      element("span", { class: "keys-group" }, ...SENT.map(([label, name]) => this.#sender(label, name)), cad, more, touch), functionKeys, this.keyboard.node);
    this.note = element("p", { class: "keys-note", tabindex: "0" }, KASMVNC);
    this.node = element("div", { class: "viewer-keys", role: "toolbar", "aria-label": "Keys", hidden: true }, this.keys, this.note);
    this.node.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.target === this.keyboard.node) return;
      this.close();
    });
  }

  get isOpen() {
    return !this.node.hidden;
  }

  /** @param {object} stream what the keys go to @param {{isForeign: boolean}} of */
  open(stream, { isForeign }) {
    this.#stream = stream;
    this.keys.hidden = isForeign;
    this.note.hidden = !isForeign;
    this.node.hidden = false;
    (isForeign ? this.note : this.keys.querySelector("button")).focus();
  }

  /** Another stream, or none: nothing is held there. */
  follow(stream) {
    if (stream === this.#stream) return;
    this.#stream = stream;
    for (const name of [...this.#held.keys()]) this.#mark(name, false);
  }

  /** Let go of what is held here; before control is lost. */
  release() {
    for (const name of [...this.#held.keys()]) {
      this.#stream?.sendKey(...KEYS[name], false);
      this.#mark(name, false);
    }
  }

  close() {
    if (!this.isOpen) return;
    this.release();
    this.node.hidden = true;
    this.closed();
  }

  #sender(label, name) {
    const button = element("button", { type: "button", class: "button small", "data-key": name }, label);
    button.addEventListener("click", () => this.#stream && press(this.#stream, name));
    return button;
  }

  #holder(label, name) {
    const button = element("button", { type: "button", class: "button small", "data-key": name, "aria-pressed": "false" }, label);
    button.addEventListener("click", () => {
      const hold = !this.#held.has(name);
      this.#stream?.sendKey(...KEYS[name], hold);
      this.#mark(name, hold, button);
    });
    return button;
  }

  #mark(name, isHeld, button = this.#held.get(name)) {
    button.setAttribute("aria-pressed", String(isHeld));
    if (isHeld) this.#held.set(name, button);
    else this.#held.delete(name);
  }

  #ctrlAltDel() {
    const order = ["Control", "Alt", "Delete"];
    for (const name of order) this.#stream?.sendKey(...KEYS[name], true);
    for (const name of order.reverse()) if (!this.#held.has(name)) this.#stream?.sendKey(...KEYS[name], false);
  }
}
