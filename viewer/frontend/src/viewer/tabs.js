// Desktop and DevTools, one above the other: what is not shown stays alive. What DevTools need comes once somebody opens them.

import { NOT_LOADED, element, setText } from "../dom.js";
import { ownPage } from "./connection.js";

/** `bar` goes above the screen, `panel` over it. */
export class Tabs {
  connection = ownPage;
  #session = null;
  #isOpen = false;
  /** @type {import("./devtools-frame.js").DevTools|null} */
  #devtools = null;
  /** @type {() => Promise<typeof import("./extras.js")>} */
  #extras;

  /** @param {() => Promise<typeof import("./extras.js")>} extras */
  constructor(extras) {
    this.#extras = extras;
    this.desktop = element("button", { type: "button", class: "viewer-tab", role: "tab", "aria-selected": "true" }, "Desktop");
    this.tool = element("button", { type: "button", class: "viewer-tab", role: "tab", "aria-selected": "false", tabindex: "-1" }, "DevTools");
    this.targets = element("select", { "aria-label": "What DevTools show", hidden: true });
    this.alone = element("a", { class: "button plain", target: "_blank", rel: "noopener", hidden: true }, "Open in a tab");
    const list = element("div", { role: "tablist", "aria-label": "Shown" }, this.desktop, this.tool);
    this.bar = element("div", { class: "viewer-tabs", hidden: true }, list, this.targets, this.alone);
    this.stage = element("div", { class: "devtools-stage" });
    this.note = element("p", { class: "devtools-note", role: "status" });
    this.panel = element("div", { class: "devtools-panel", hidden: true }, this.stage, this.note);
    this.desktop.addEventListener("click", () => this.#choose(false));
    this.tool.addEventListener("click", () => this.#choose(true));
    list.addEventListener("keydown", (event) => this.#moved(event));
  }

  /** Call whenever the session has changed. @param {import("../session.js").Session|null} session @param {boolean} mayControl */
  show(session, mayControl) {
    const capable = Boolean(session?.devtools_url && session.status === "running" && mayControl);
    if (session?.id !== this.#session?.id || !capable) this.close();
    this.#session = capable ? session : null;
    this.bar.hidden = !capable;
    if (capable) this.alone.href = session.devtools_url;
  }

  close() {
    this.#devtools?.close();
    this.#devtools = null;
    this.#isOpen = false;
    this.#render();
  }

  async #choose(open) {
    if (open === this.#isOpen) return;
    this.#isOpen = open;
    this.#render();
    if (!open || this.#devtools) return;
    const session = this.#session;
    setText(this.note, "Opening DevTools…");
    let extras;
    try {
      extras = await this.#extras();
    } catch {
      return setText(this.note, NOT_LOADED);
    }
    if (this.#session?.id !== session.id || this.#devtools || !this.#isOpen) return;
    this.#devtools = new extras.DevTools(session.id, { stage: this.stage, note: this.note, targets: this.targets, panel: this.panel, connection: this.connection });
  }

  #moved(event) {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    this.#choose(!this.#isOpen);
    (this.#isOpen ? this.tool : this.desktop).focus();
  }

  #render() {
    const open = this.#isOpen;
    this.panel.hidden = !open;
    this.targets.hidden = this.alone.hidden = !open;
    for (const [tab, isChosen] of [[this.desktop, !open], [this.tool, open]]) {
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
    }
  }
}
