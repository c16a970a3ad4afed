// Who has keyboard and mouse of a desktop, and the buttons that change it. The server decides; this shows what it says.

import { serverNow } from "../api.js";
import { badge, element, setText } from "../dom.js";
import { onlyWatches, ownPage } from "./connection.js";

// Whoever still does something in the last minute of his time keeps it for longer.
const RENEW_BEFORE_MS = 60_000;
const LOOK_EVERY_MS = 5000;
const NEWS_MS = 8000;

/** @typedef {{id: string, kind: "agent"|"person", name: string}} Holder */
/** @typedef {{session_id: string, number: number, holder: Holder|null, ends_at: string|null, reason: string|null, requests: {by: Holder, reason: string|null}[], you?: string}} Lease as in the API */

/** Fires `change` when somebody else has it, or it is known for the first time. `node` is the row to show. */
export class LeaseBar extends EventTarget {
  connection = ownPage;
  /** @type {import("../live.js").Live|null} */
  #live = null;
  /** @type {import("../session.js").Session|null} */
  #session = null;
  /** @type {Lease|null} null until it is known */
  #lease = null;
  #you = "";
  #pending = "";
  #usedAt = 0;
  #askedAt = 0;
  #heardSinceAsked = false;
  #newsTimer = 0;
  #ticker = 0;
  #onLease = (event) => this.#heard(event.detail);
  #onState = () => this.#live?.state === "live" && this.#ask();

  constructor() {
    super();
    this.state = element("span", { class: "lease-state", role: "status" });
    this.reason = element("span", { class: "lease-reason" });
    this.news = element("p", { class: "lease-news", role: "status" });
    this.error = element("p", { class: "lease-error", role: "alert" });
    this.buttons = element("div", { class: "lease-buttons" });
    this.node = element("div", { class: "lease", role: "group", "aria-label": "Control", hidden: true }, this.state, this.reason, this.news, this.error, this.buttons);
  }

  /** Show that session's; null: none. */
  show(session, live) {
    const isNew = session?.id !== this.#session?.id;
    this.#session = session;
    if (live !== this.#live) this.#follow(live);
    if (isNew) {
      this.#lease = null;
      // The new one may not run yet, and is asked about once it does.
      this.#askedAt = 0;
      this.#setNews("");
      setText(this.error, "");
      this.#ask();
    } else if (!this.#lease && !this.#askedAt) this.#ask();
    if (this.#isToldByTheSession) this.#accept(asVisitorsSeeIt(session));
    this.#render();
  }

  stop() {
    this.#follow(null);
    clearInterval(this.#ticker);
    clearTimeout(this.#newsTimer);
  }

  /** Does what is typed and clicked here reach the desktop? */
  get isMine() {
    return Boolean(this.#lease?.holder) && this.#lease.holder.id === this.#you;
  }

  /** Does a click on the screen take it? Where an agent may be at work, only the button does. */
  get isTakenByActing() {
    if (onlyWatches(this.connection) || !this.#lease || this.#lease.holder || !this.#isControllable) return false;
    const { kind, agent_id: agent, task_id: task, created_by: by } = this.#session;
    return kind === "desktop" || !(agent || task || by?.startsWith("key:"));
  }

  /** Something was typed or clicked on the screen here. */
  acted() {
    this.#usedAt = Date.now();
    if (this.isTakenByActing && !this.#pending) this.take();
  }

  /** Why the stream was closed: somebody has taken control. */
  tell(text) {
    this.#setNews(text);
    this.#ask();
  }

  take(body = {}) {
    return this.#do("take", "Taking control…", () => this.connection.call("POST", this.#path("/take"), body));
  }

  get #isControllable() {
    return this.#session?.status === "running" && this.#session.display !== "none";
  }

  /** A visitor is told with the session, and whether it is an agent or a person: of nobody's name. */
  get #isToldByTheSession() {
    return this.#session?.control !== undefined;
  }

  #path(verb = "") {
    return `/api/v1/sessions/${encodeURIComponent(this.#session.id)}/lease${verb}`;
  }

  #follow(live) {
    this.#live?.removeEventListener("lease", this.#onLease);
    this.#live?.removeEventListener("state", this.#onState);
    this.#live = live;
    clearInterval(this.#ticker);
    if (!live) return;
    live.addEventListener("lease", this.#onLease);
    live.addEventListener("state", this.#onState);
    this.#ticker = setInterval(() => this.#renewIfUsed(), LOOK_EVERY_MS);
  }

  /** @param {Lease|null} lease null: changes were missed */
  #heard(lease) {
    if (!lease) return this.#ask();
    if (lease.session_id !== this.#session?.id) return;
    this.#heardSinceAsked = true;
    if (!this.#lease || lease.number >= this.#lease.number) this.#accept(lease);
  }

  async #ask() {
    if (!this.#isControllable || this.#isToldByTheSession) return;
    const id = this.#session.id;
    this.#askedAt = Date.now();
    this.#heardSinceAsked = false;
    try {
      const lease = await this.connection.call("GET", this.#path());
      if (this.#session?.id !== id) return;
      this.#you = lease.you;
      // An event that came meanwhile may be newer than this answer.
      if (!this.#heardSinceAsked || !this.#lease || lease.number > this.#lease.number) this.#accept(lease);
      else this.#render();
    } catch (problem) {
      if (problem.status === 401) this.connection.signedOut?.();
      // The viewer asks again: the stream and the list tell of a silent server.
      this.#askedAt = 0;
    }
  }

  #accept(lease) {
    const before = this.#lease;
    const wasMine = this.isMine;
    this.#lease = lease;
    if (wasMine && !this.isMine && this.#pending !== "release") this.#setNews(lease.holder ? `${lease.holder.name} has taken control.` : "You no longer have control.");
    else if (this.isMine) this.#setNews("");
    this.#render();
    if (before?.holder?.id !== lease.holder?.id || !before || wasMine !== this.isMine) this.dispatchEvent(new CustomEvent("change"));
  }

  async #do(name, words, act) {
    if (this.#pending) return;
    const id = this.#session?.id;
    this.#pending = name;
    setText(this.error, "");
    this.#render(words);
    try {
      const lease = await act();
      if (this.#session?.id !== id) return;
      if (lease) {
        this.#you = lease.you;
        this.#usedAt = Date.now();
        this.#accept(lease);
      } else this.#ask();
    } catch (problem) {
      if (problem.status === 401) return this.connection.signedOut?.();
      setText(this.error, problem.message);
      this.#ask();
    } finally {
      this.#pending = "";
      this.#render();
    }
  }

  #renewIfUsed() {
    if (document.activeElement?.tagName === "IFRAME") this.#usedAt = Date.now();
    if (!this.isMine || this.#pending || Date.now() - this.#usedAt > RENEW_BEFORE_MS) return;
    if (Date.parse(this.#lease.ends_at) - serverNow() < RENEW_BEFORE_MS) this.#do("renew", "", () => this.connection.call("POST", this.#path("/renew"), {}));
  }

  #setNews(text) {
    clearTimeout(this.#newsTimer);
    setText(this.news, text);
    if (text) this.#newsTimer = setTimeout(() => setText(this.news, ""), NEWS_MS);
  }

  // ---- what is on the page -------------------------------------------------------------------------------------

  #render(pendingWords = "") {
    this.node.hidden = !this.#isControllable || !this.#lease;
    if (this.node.hidden) return;
    const shown = this.#badge();
    if (this.state.dataset.shown !== shown.label) {
      this.state.dataset.shown = shown.label;
      this.state.replaceChildren(badge(shown));
    }
    setText(this.reason, this.#lease.reason ?? "");
    this.reason.title = this.#lease.reason ?? "";
    const wanted = this.#actions();
    const key = JSON.stringify([wanted.map(({ label }) => label), this.#pending, pendingWords]);
    if (this.buttons.dataset.key === key) return;
    this.buttons.dataset.key = key;
    this.#showButtons(wanted, pendingWords);
  }

  #showButtons(wanted, pendingWords) {
    const focused = this.buttons.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    this.buttons.replaceChildren(
      ...wanted.map(({ act, label, run, primary, hint }) => {
        const button = element("button", { type: "button", class: primary ? "button primary small" : "button small", "data-act": act, title: hint ?? null, disabled: Boolean(this.#pending) }, label);
        if (this.#pending === act && pendingWords) button.replaceChildren(element("span", { class: "spinner small" }), pendingWords);
        button.addEventListener("click", run);
        return button;
      }),
    );
    if (focused) (this.buttons.querySelector(`[data-act="${focused}"]`) ?? this.buttons.querySelector("button"))?.focus();
  }

  #badge() {
    const holder = this.#lease.holder;
    if (!holder) return { tone: "quiet", label: "Nobody has control" };
    if (this.isMine) return { tone: "good", label: "You have control" };
    if (holder.kind === "agent") return { tone: "busy", label: holder.name ? `Agent ${holder.name} works` : "An agent works" };
    return { tone: "warn", label: `${holder.name || "Somebody"} has control` };
  }

  #actions() {
    if (onlyWatches(this.connection)) return [];
    if (this.isMine) return [...this.#lease.requests.map((one) => this.#give(one)), { act: "release", label: "Give back", run: () => this.#release() }];
    const holder = this.#lease.holder;
    const takes = { act: "take", label: "Take control", primary: true, run: () => this.take() };
    if (!holder || holder.kind === "agent") return [takes];
    if (personOf(holder.id) === personOf(this.#you)) return [{ ...takes, label: "Take control here", hint: "You have it in another browser." }];
    const asks = this.#lease.requests.some((one) => one.by.id === this.#you)
      ? { act: "ask", label: "Stop asking", run: () => this.#do("ask", "", () => this.connection.call("DELETE", this.#path("/request"))) }
      : { act: "ask", label: "Ask for control", primary: true, run: () => this.#do("ask", "Asking…", () => this.connection.call("POST", this.#path("/request"), {})) };
    const insists = { act: "force", label: "Take anyway", hint: `${holder.name} loses it at once.`, run: () => this.take({ force: true }) };
    return this.connection.role === "admin" ? [asks, insists] : [asks];
  }

  #give(request) {
    const { by, reason } = request;
    return { act: `give-${by.id}`, label: `Give to ${by.name}`, hint: reason ?? `${by.name} asks for control.`, primary: true, run: () => this.#do(`give-${by.id}`, "Giving…", () => this.connection.call("POST", this.#path("/give"), { to: by.id })) };
  }

  #release() {
    return this.#do("release", "Giving back…", () => this.connection.call("POST", this.#path("/release"), {}));
  }
}

/** The same for all browsers of one person. */
const personOf = (holderId) => holderId.split("/")[0];

/** @returns {Lease} */
const asVisitorsSeeIt = ({ id, control }) => ({ session_id: id, number: 0, holder: control && { id: control, kind: control, name: "" }, ends_at: null, reason: null, requests: [] });
