// A small box that opens at a button, above everything, and goes away by itself.

import { element } from "../dom.js";

const EDGE = 8;

export class Popup {
  #anchor = null;
  #onAway = () => this.close();

  /** @param {HTMLElement} parent @param {Record<string, string>} attributes of the box */
  constructor(parent, attributes) {
    this.node = element("div", { popover: "auto", class: "viewer-popup", ...attributes });
    parent.append(this.node);
    this.node.addEventListener("toggle", (event) => event.newState === "closed" && this.#closed());
  }

  get isOpen() {
    return this.node.matches(":popover-open");
  }

  /** @param {HTMLElement} anchor @param {...Node} content */
  open(anchor, ...content) {
    this.#anchor = anchor;
    this.node.replaceChildren(...content);
    this.node.showPopover();
    anchor.setAttribute("aria-expanded", "true");
    this.#place();
    // A click into a frame is no click here, but takes the focus from the window. Only while it is open: viewers come and go.
    addEventListener("blur", this.#onAway);
    addEventListener("resize", this.#onAway);
  }

  close() {
    if (this.isOpen) this.node.hidePopover();
  }

  /** Below the button, its right edge there, and inside the window. */
  #place() {
    const at = this.#anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.node;
    const left = Math.max(EDGE, Math.min(at.right - width, innerWidth - width - EDGE));
    const below = at.bottom + 4;
    const top = below + height + EDGE <= innerHeight ? below : Math.max(EDGE, innerHeight - height - EDGE);
    this.node.style.left = `${left}px`;
    this.node.style.top = `${top}px`;
  }

  #closed() {
    removeEventListener("blur", this.#onAway);
    removeEventListener("resize", this.#onAway);
    this.#anchor?.setAttribute("aria-expanded", "false");
    const active = this.node.getRootNode().activeElement;
    if (!active || active.localName === "body" || this.node.contains(active)) this.#anchor?.focus({ preventScroll: true });
  }
}
