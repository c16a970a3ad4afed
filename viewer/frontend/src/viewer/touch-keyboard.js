// A hidden field that makes a phone show its keyboard. What is written into it, by whatever method, becomes keys.

import { element } from "../dom.js";
import { KEYS, keyOf } from "./keysyms.js";

// There must be something for a phone's "delete" to delete.
const FILLING = "_".repeat(40);
const REFILL_BELOW = 10;

export class TouchKeyboard {
  #before = FILLING;

  /** @param {(keysym: number, code: string, down: boolean) => void} send */
  constructor(send) {
    this.send = send;
    this.node = element("textarea", {
      class: "viewer-touch-keyboard", "aria-label": "Keyboard of the desktop", autocapitalize: "off", autocomplete: "off", autocorrect: "off", spellcheck: "false", tabindex: "-1",
    });
    this.node.value = FILLING;
    this.node.addEventListener("keydown", (event) => this.#keyDown(event));
    this.node.addEventListener("input", (event) => this.#changed(event.isComposing));
    this.node.addEventListener("compositionend", () => this.#changed(false));
  }

  /** In the very click: a phone shows its keyboard for nothing else. */
  open() {
    this.#refill();
    this.node.focus({ preventScroll: true });
  }

  /** A keyboard with keys names them; one on a screen often says nothing here, and what it wrote comes as `input`. */
  #keyDown(event) {
    if (event.isComposing || !(event.key in KEYS) || event.key === "Control" || event.key === "Alt" || event.key === "Meta") return;
    event.preventDefault();
    this.#press(KEYS[event.key]);
  }

  #changed(isComposing) {
    const now = this.node.value;
    const same = commonLength(this.#before, now);
    for (let left = [...this.#before.slice(same)].length; left > 0; left--) this.#press(KEYS.Backspace);
    for (const character of now.slice(same)) this.#press(keyOf(character));
    this.#before = now;
    // Never under the hands of whoever composes a word.
    if (!isComposing && (now.length < REFILL_BELOW || now.length > FILLING.length * 4)) this.#refill();
  }

  #press([keysym, code]) {
    this.send(keysym, code, true);
    this.send(keysym, code, false);
  }

  #refill() {
    this.node.value = this.#before = FILLING;
    this.node.setSelectionRange(FILLING.length, FILLING.length);
  }
}

function commonLength(one, other) {
  let at = 0;
  while (at < one.length && at < other.length && one[at] === other[at]) at++;
  // Not between the halves of a character.
  return at > 0 && /[\ud800-\udbff]/.test(one[at - 1]) ? at - 1 : at;
}
