// How fast the connection is, while somebody wants to know.

import { element, setText } from "../dom.js";
import { duration } from "../session.js";

const EVERY_MS = 1000;
const KASMVNC = "KasmVNC's page keeps its frames and round trips to itself.";

export class FiguresPanel {
  #timer = 0;
  #link = null;
  #meter = null;
  #measured = null;

  constructor() {
    this.rows = element("dl", {});
    this.note = element("p", {});
    this.close_ = element("button", { type: "button", class: "button small", "aria-label": "Close connection figures" }, "Close");
    this.close_.addEventListener("click", () => this.close());
    this.node = element("section", { class: "viewer-figures", "aria-label": "Connection", hidden: true }, this.rows, this.note, this.close_);
  }

  get isOpen() {
    return !this.node.hidden;
  }

  /** @param {import("./link.js").Link} link */
  open(link) {
    this.#link = link;
    this.node.hidden = false;
    this.#look();
    this.#timer = setInterval(() => this.#look(), EVERY_MS);
  }

  close() {
    clearInterval(this.#timer);
    this.#stop();
    this.node.hidden = true;
  }

  #stop() {
    this.#meter?.stop();
    this.#meter = this.#measured = null;
  }

  #look() {
    const { stream, state, connectedAt, shownAs } = this.#link;
    if (state !== "connected") this.#stop();
    else if (stream !== this.#measured) {
      this.#stop();
      this.#measured = stream;
      this.#meter = stream.measure();
    }
    const sample = this.#meter?.sample();
    const rows = [
      ["Connected", state === "connected" ? `for ${duration(Date.now() - connectedAt)}` : "not just now"],
      sample && ["Round trip", sample.roundTrip === null ? "measuring…" : `${Math.max(1, Math.round(sample.roundTrip))} ms`],
      sample && ["Pictures", `${Math.round(sample.framesPerSecond)} a second`],
      sample && ["Received", amount(sample.kilobitsPerSecond)],
    ].filter(Boolean);
    this.rows.replaceChildren(...rows.map(([name, value]) => element("div", { "data-figure": name }, element("dt", {}, name), element("dd", {}, value))));
    setText(this.note, state === "connected" && shownAs === "kasmvnc" ? KASMVNC : "");
  }
}

const amount = (kilobits) => (kilobits < 1000 ? `${Math.round(kilobits)} kbit/s` : `${(kilobits / 1000).toFixed(1)} Mbit/s`);
