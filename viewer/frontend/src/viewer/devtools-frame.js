// Chrome DevTools of a desktop's browser, beside the desktop: a choice of targets, and a frame at the session's own origin. The front-end is that of the browser in the desktop, so it is a foreign page like any other.

import { goThrough, ticketFrom } from "../entering.js";
import { element, setText } from "../dom.js";

// What DevTools need. They stay in their frame: no top navigation, no windows of their own.
const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-downloads";
// DevTools tell nobody that they were cut; whether they may still be open is asked for while they are shown.
const LOOK_EVERY_MS = 3000;
const PATIENCE_MS = 20_000;
const IN_A_TAB = "This browser keeps nothing for DevTools in a frame of another site. In a tab of its own they work.";
const FRONT_END = "/devtools/inspector.html";
// Leads on to it where the browser lets such a frame keep what DevTools keep; else it says so, where they would stay blank.
const IN_FRAMES = "/devtools/deskfleet-frame";
let frames = 0;

/** A choice of targets and a frame; from the first look until `close` it stays alive, shown or not. */
export class DevTools {
  #id;
  #parts;
  #connection;
  #frame = null;
  #origin = "";
  /** Id of the target that the frame shows, "" before there is one. */
  #shown = "";
  #timer = 0;
  #patience = 0;
  #asking = 0;
  #isClosed = false;
  #onMessage = (event) => this.#heard(event);
  #onChoice = () => this.#attach(this.#parts.targets.value);

  /**
   * @param {string} sessionId
   * @param {{stage: HTMLElement, note: HTMLElement, targets: HTMLSelectElement, panel: HTMLElement, connection: import("./connection.js").Connection}} parts
   *   `panel` holds the stage, and is hidden while they are not looked at
   */
  constructor(sessionId, { connection, ...parts }) {
    this.#id = sessionId;
    this.#parts = parts;
    this.#connection = connection;
    addEventListener("message", this.#onMessage);
    parts.targets.addEventListener("change", this.#onChoice);
    this.#timer = setInterval(() => document.hidden || parts.panel.hidden || this.#look(), LOOK_EVERY_MS);
    this.#look();
  }

  close() {
    this.#isClosed = true;
    this.#asking++;
    clearInterval(this.#timer);
    removeEventListener("message", this.#onMessage);
    this.#parts.targets.removeEventListener("change", this.#onChoice);
    this.#parts.targets.replaceChildren();
    delete this.#parts.targets.dataset.key;
    this.#detach("");
  }

  #detach(why) {
    clearTimeout(this.#patience);
    this.#frame = null;
    this.#shown = "";
    this.#parts.stage.replaceChildren();
    setText(this.#parts.note, why);
  }

  async #look() {
    const asking = ++this.#asking;
    let found;
    try {
      found = await this.#connection.call("GET", `/api/v1/sessions/${encodeURIComponent(this.#id)}/devtools`);
    } catch (problem) {
      if (asking !== this.#asking) return;
      if (problem.status === 401) return this.#connection.signedOut?.();
      // What is silent for a moment cuts nobody.
      const isPassing = problem.status === 0 || problem.status >= 500;
      return isPassing && this.#frame ? undefined : this.#detach(problem.message);
    }
    if (asking !== this.#asking) return;
    if (!found.available) return this.#detach(found.why_not);
    this.#list(found.targets);
    if (!this.#frame && found.targets.length) this.#attach(found.targets[0].id);
    if (!found.targets.length) this.#detach("The browser in this desktop has no page open.");
  }

  #list(targets) {
    const key = JSON.stringify(targets);
    if (this.#parts.targets.dataset.key === key) return;
    this.#parts.targets.dataset.key = key;
    // What is shown may be gone; DevTools say so themselves.
    this.#parts.targets.replaceChildren(...targets.map((target) => element("option", { value: target.id, "data-path": target.path, selected: target.id === this.#shown },
      `${target.type === "page" ? "" : `${target.type}: `}${target.title || target.url || "Untitled"}`)));
  }

  async #attach(target) {
    const path = [...this.#parts.targets.options].find((option) => option.value === target)?.dataset.path;
    if (!path || this.#isClosed) return;
    this.#detach("Opening DevTools…");
    this.#shown = this.#parts.targets.value = target;
    const frame = (this.#frame = element("iframe", { name: `devtools-${++frames}`, title: "Chrome DevTools", sandbox: SANDBOX }));
    let entry;
    try {
      entry = await ticketFrom(`/api/v1/sessions/${encodeURIComponent(this.#id)}/entries`, { page: "devtools" }, this.#connection);
    } catch (problem) {
      if (this.#frame === frame) this.#detach(problem.message);
      return;
    }
    if (this.#frame !== frame) return;
    this.#origin = new URL(entry.url).origin;
    frame.allow = `clipboard-read ${this.#origin}; clipboard-write ${this.#origin}`;
    frame.addEventListener("load", () => this.#frame === frame && this.#loaded());
    this.#parts.stage.replaceChildren(frame);
    this.#patience = setTimeout(() => this.#detach("DevTools do not answer."), PATIENCE_MS);
    goThrough(entry, { next: path.replace(FRONT_END, IN_FRAMES), target: frame.name, within: this.#parts.panel });
  }

  #loaded() {
    clearTimeout(this.#patience);
    setText(this.#parts.note, "");
  }

  #heard(event) {
    if (!this.#frame || event.source !== this.#frame.contentWindow || event.origin !== this.#origin) return;
    // The page in DevTools' place says that the cookie did not come back.
    if (["deskfleet_closed", "deskfleet_no_storage"].includes(event.data?.action)) this.#detach(IN_A_TAB);
  }
}
