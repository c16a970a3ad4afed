// The desktop's clipboard as text: what was copied there shows here, what is written here goes there.

import { element } from "../dom.js";

const KASMVNC = "KasmVNC keeps this browser's clipboard and the desktop's alike by itself while you have control: copy and paste as usual. It cannot be read or written from here.";

export class ClipboardPanel {
  /** @param {{send: (text: string) => void, closed: () => void}} acts */
  constructor({ send, closed }) {
    this.closed = closed;
    this.text = element("textarea", { rows: "5", spellcheck: "false", dir: "auto", "aria-label": "Text on the desktop's clipboard" });
    this.send = element("button", { type: "button", class: "button primary" }, "Send to desktop");
    this.hint = element("p", {});
    this.node = element("div", { class: "viewer-clipboard", role: "region", "aria-label": "Clipboard", hidden: true }, this.hint, this.text, this.send);
    this.send.addEventListener("click", () => send(this.text.value));
    this.node.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  get isOpen() {
    return !this.node.hidden;
  }

  /** @param {{isForeign: boolean}} of isForeign: the clipboard is the affair of the desktop's own page */
  open({ isForeign }) {
    this.hint.textContent = isForeign ? KASMVNC : "Text copied on the desktop shows here. Write or paste here to send it there.";
    this.text.hidden = this.send.hidden = isForeign;
    this.node.hidden = false;
    this.node.tabIndex = isForeign ? 0 : -1;
    (isForeign ? this.node : this.text).focus();
  }

  close() {
    if (!this.isOpen) return;
    this.node.hidden = true;
    this.closed();
  }
}
