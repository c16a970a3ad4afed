// Chrome DevTools of a desktop's browser, beside the desktop: a row of tabs, a choice of targets, and a frame at the
// session's own origin. The front-end is that of the browser in the desktop, so it is a foreign page like any other.

import { goThrough, ticketFrom } from "../entering.js";
import { element, setText } from "../dom.js";
import { ownPage } from "./connection.js";

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

/** The tabs and what is below them. `bar` goes above the screen, `panel` over it; the desktop stays connected. */
export class DevToolsTab {
  connection = ownPage;
  #session = null;
  #open = false;
  #frame = null;
  #origin = "";
  /** Id of the target that the frame shows, "" before there is one. */
  #shown = "";
  #timer = 0;
  #patience = 0;
  #asking = 0;
  #onMessage = (event) => this.#heard(event);

  constructor() {
    this.desktop = element("button", { type: "button", class: "viewer-tab", role: "tab", "aria-selected": "true" }, "Desktop");
    this.devtools = element("button", { type: "button", class: "viewer-tab", role: "tab", "aria-selected": "false" }, "DevTools");
    this.targets = element("select", { "aria-label": "What DevTools show", hidden: true });
    this.alone = element("a", { class: "button plain", target: "_blank", rel: "noopener", hidden: true }, "Open in a tab");
    this.bar = element("div", { class: "viewer-tabs", hidden: true },
      element("div", { role: "tablist" }, this.desktop, this.devtools), this.targets, this.alone);
    this.stage = element("div", { class: "devtools-stage" });
    this.note = element("p", { class: "devtools-note", role: "status" });
    this.panel = element("div", { class: "devtools-panel", hidden: true }, this.stage, this.note);
    this.desktop.addEventListener("click", () => this.#choose(false));
    this.devtools.addEventListener("click", () => this.#choose(true));
    this.targets.addEventListener("change", () => this.#attach(this.targets.value));
  }

  /** Call whenever the session has changed. @param {object|null} session @param {boolean} mayControl */
  show(session, mayControl) {
    const capable = Boolean(session?.devtools_url && session.status === "running" && mayControl);
    if (session?.id !== this.#session?.id || !capable) this.#close();
    this.#session = capable ? session : null;
    this.bar.hidden = !capable;
    if (capable) this.alone.href = session.devtools_url;
  }

  /** Look again whether they may be open; something has happened that may have ended them. */
  refresh() {
    if (this.#open) this.#look();
  }

  close() {
    this.#close();
  }

  #choose(open) {
    if (open === this.#open) return;
    if (!open) return this.#close();
    this.#open = true;
    this.#render();
    setText(this.note, "Opening DevTools…");
    addEventListener("message", this.#onMessage);
    this.#timer = setInterval(() => document.hidden || this.#look(), LOOK_EVERY_MS);
    this.#look();
  }

  #close() {
    this.#open = false;
    this.#asking++;
    clearInterval(this.#timer);
    removeEventListener("message", this.#onMessage);
    this.#detach("");
    this.#render();
  }

  #detach(why) {
    clearTimeout(this.#patience);
    this.#frame = null;
    this.#shown = "";
    this.stage.replaceChildren();
    setText(this.note, why);
  }

  #render() {
    this.panel.hidden = !this.#open;
    this.targets.hidden = this.alone.hidden = !this.#open;
    this.desktop.setAttribute("aria-selected", String(!this.#open));
    this.devtools.setAttribute("aria-selected", String(this.#open));
  }

  async #look() {
    const id = this.#session?.id;
    const asking = ++this.#asking;
    let found;
    try {
      found = await this.connection.call("GET", `/api/v1/sessions/${encodeURIComponent(id)}/devtools`);
    } catch (problem) {
      if (asking !== this.#asking) return;
      if (problem.status === 401) return this.connection.signedOut?.();
      // What is silent for a moment cuts nobody.
      const isPassing = problem.status === 0 || problem.status >= 500;
      return isPassing && this.#frame ? undefined : this.#detach(problem.message);
    }
    if (asking !== this.#asking || !this.#open) return;
    if (!found.available) return this.#detach(found.why_not);
    this.#list(found.targets);
    if (!this.#frame && found.targets.length) this.#attach(found.targets[0].id);
    if (!found.targets.length) this.#detach("The browser in this desktop has no page open.");
  }

  #list(targets) {
    const key = JSON.stringify(targets);
    if (this.targets.dataset.key === key) return;
    this.targets.dataset.key = key;
    // What is shown may be gone; DevTools say so themselves.
    this.targets.replaceChildren(...targets.map((target) => element("option", { value: target.id, "data-path": target.path, selected: target.id === this.#shown },
      `${target.type === "page" ? "" : `${target.type}: `}${target.title || target.url || "Untitled"}`)));
  }

  async #attach(target) {
    const path = [...this.targets.options].find((option) => option.value === target)?.dataset.path;
    const id = this.#session?.id;
    if (!path || !id) return;
    this.#detach("Opening DevTools…");
    this.#shown = this.targets.value = target;
    const frame = (this.#frame = element("iframe", { name: `devtools-${++frames}`, title: "Chrome DevTools", sandbox: SANDBOX }));
    let entry;
    try {
      entry = await ticketFrom(`/api/v1/sessions/${encodeURIComponent(id)}/entries`, { page: "devtools" }, this.connection);
    } catch (problem) {
      if (this.#frame === frame) this.#detach(problem.message);
      return;
    }
    if (this.#frame !== frame) return;
    this.#origin = new URL(entry.url).origin;
    frame.allow = `clipboard-read ${this.#origin}; clipboard-write ${this.#origin}`;
    frame.addEventListener("load", () => this.#frame === frame && this.#loaded());
    this.stage.replaceChildren(frame);
    this.#patience = setTimeout(() => this.#detach("DevTools do not answer."), PATIENCE_MS);
    goThrough(entry, { next: path.replace(FRONT_END, IN_FRAMES), target: frame.name, within: this.panel });
  }

  #loaded() {
    clearTimeout(this.#patience);
    setText(this.note, "");
  }

  #heard(event) {
    if (!this.#frame || event.source !== this.#frame.contentWindow || event.origin !== this.#origin) return;
    // The page in DevTools' place says that the cookie did not come back.
    if (["deskfleet_closed", "deskfleet_no_storage"].includes(event.data?.action)) this.#detach(IN_A_TAB);
  }
}
