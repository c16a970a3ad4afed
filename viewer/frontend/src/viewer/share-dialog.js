// "Share this desktop": make a link for somebody without an account, see who came by which, revoke one.

import { serverNow } from "../api.js";
import { copyButton } from "../copy.js";
import { element } from "../dom.js";
import { browserName } from "../browsers.js";
import { ago, duration, exactly } from "../session.js";

const LIVES = [["15 minutes", 900], ["1 hour", 3600], ["8 hours", 28_800], ["1 day", 86_400], ["7 days", 604_800]];
const LOOK_EVERY_MS = 3000;

/**
 * @typedef {object} Visit as in the API
 * @property {string|null} address
 * @property {string|null} user_agent
 * @property {string} last_seen_at
 * @property {number|null} streams_open null: the host does not say
 *
 * @typedef {object} Share as in the API
 * @property {string} id
 * @property {string|null} label
 * @property {boolean} single_use
 * @property {boolean} is_over
 * @property {string} expires_at
 * @property {string|null} revoked_at
 * @property {Visit[]} visits
 */

export class ShareDialog {
  #session = null;
  #timer = 0;
  #shown = "";

  /** @param {HTMLElement} parent @param {import("./connection.js").Connection} connection */
  constructor(parent, connection) {
    this.connection = connection;
    this.label = element("input", { type: "text", maxlength: "200", autocomplete: "off", placeholder: "Whom it is for" });
    this.life = element("select", {}, ...LIVES.map(([name, seconds]) => element("option", { value: seconds, selected: seconds === 3600 }, name)));
    this.once = element("input", { type: "checkbox" });
    this.make = element("button", { type: "submit", class: "button primary" }, "Make a link");
    this.error = element("p", { class: "form-error", role: "alert", hidden: true });
    this.url = element("input", { type: "text", readonly: true, "aria-label": "The link", spellcheck: "false" });
    this.copy = copyButton(() => this.url.value, "link", this.url);
    this.fresh = element("div", { class: "share-fresh", hidden: true },
      element("p", { role: "status" }, "Copy it now: it is shown this once. Whoever has it can watch, and do nothing else."),
      element("div", { class: "copy" }, this.url, this.copy));
    this.list = element("ul", { class: "share-list" });
    this.close = element("button", { type: "button", class: "button" }, "Close");
    const form = element("form", { class: "share-form" },
      element("label", { class: "field" }, element("span", {}, "Name"), this.label),
      element("label", { class: "field" }, element("span", {}, "Good for"), this.life),
      element("label", { class: "share-once" }, this.once, "Only the first browser that opens it"),
      this.make);
    this.box = element("dialog", { class: "dialog share-dialog", "aria-label": "Share this desktop" },
      element("h2", {}, "Share this desktop"),
      element("p", {}, "A link lets somebody without an account watch, until it is over."),
      form, this.error, this.fresh, this.list, element("div", { class: "dialog-actions" }, this.close));
    form.addEventListener("submit", (event) => this.#submitted(event));
    this.close.addEventListener("click", () => this.box.close());
    this.box.addEventListener("close", () => this.#closed());
    parent.append(this.box);
  }

  /** @param {import("../session.js").Session} session */
  open(session) {
    this.#session = session;
    this.label.value = "";
    this.once.checked = false;
    this.list.replaceChildren();
    this.#shown = "";
    this.#say("");
    this.box.showModal();
    this.#look();
  }

  #closed() {
    clearTimeout(this.#timer);
    // The secret leaves the page with the dialog.
    this.url.value = "";
    this.fresh.hidden = true;
    this.#session = null;
  }

  get #at() {
    return `/api/v1/sessions/${encodeURIComponent(this.#session.id)}/shares`;
  }

  async #submitted(event) {
    event.preventDefault();
    const session = this.#session;
    this.make.disabled = true;
    this.#say("");
    const wanted = { ttl_seconds: Number(this.life.value), single_use: this.once.checked };
    if (this.label.value.trim()) wanted.label = this.label.value.trim();
    try {
      const made = await this.connection.call("POST", this.#at, wanted);
      if (this.#session !== session) return;
      this.url.value = made.url;
      this.fresh.hidden = false;
      this.label.value = "";
      this.copy.textContent = "Copy";
      this.copy.focus();
      this.#look();
    } catch (problem) {
      this.#failed(problem);
    } finally {
      this.make.disabled = false;
    }
  }

  async #look() {
    clearTimeout(this.#timer);
    const session = this.#session;
    try {
      const { items } = await this.connection.call("GET", this.#at);
      if (this.#session === session) this.#render(items);
    } catch (problem) {
      if (this.#session === session) this.#failed(problem);
    }
    if (this.#session) this.#timer = setTimeout(() => this.#look(), LOOK_EVERY_MS);
  }

  /** @param {Share[]} shares */
  #render(shares) {
    const rows = shares.filter((share) => !share.is_over || share.visits.length > 0);
    const key = JSON.stringify([rows, Math.floor(serverNow() / 30_000)]);
    // A list that is written anew takes the focus from its buttons.
    if (key === this.#shown) return;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.share : null;
    this.#shown = key;
    this.list.replaceChildren(...rows.map((share) => this.#row(share)));
    if (focused) this.list.querySelector(`[data-share="${CSS.escape(focused)}"]`)?.focus();
  }

  /** @param {Share} share */
  #row(share) {
    const name = share.label ?? "A link";
    const left = Date.parse(share.expires_at) - serverNow();
    const state = share.revoked_at ? "revoked" : share.is_over ? "over" : `${duration(left)} left`;
    const revoke = element("button", { type: "button", class: "button", "data-share": share.id, "aria-label": `Revoke ${name}` }, "Revoke");
    revoke.addEventListener("click", () => this.#revoke(share, revoke));
    return element("li", { "data-over": String(share.is_over) },
      element("div", { class: "share-what" },
        element("span", { class: "share-name" }, name),
        element("span", { class: "share-state", title: exactly(share.expires_at) }, [state, share.single_use && "one browser"].filter(Boolean).join(" · ")),
        ...share.visits.map(visitLine),
        share.visits.length === 0 && element("span", { class: "share-visit" }, "Nobody has opened it yet.")),
      share.is_over ? null : revoke);
  }

  /** @param {Share} share @param {HTMLButtonElement} button */
  async #revoke(share, button) {
    button.disabled = true;
    this.#say("");
    try {
      await this.connection.call("DELETE", `${this.#at}/${encodeURIComponent(share.id)}`);
    } catch (problem) {
      button.disabled = false;
      if (problem.status !== 404) return this.#failed(problem);
    }
    this.#look();
  }

  #failed(problem) {
    if (problem.status === 401) return this.connection.signedOut?.();
    this.#say(problem.message);
  }

  #say(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
  }
}

/** @param {Visit} visit */
function visitLine(visit) {
  const seen = `last seen ${ago(serverNow() - Date.parse(visit.last_seen_at))}`;
  const now = visit.streams_open === null ? seen : visit.streams_open > 0 ? "watching now" : seen;
  return element("span", { class: "share-visit", title: visit.user_agent ?? "" },
    [browserName(visit.user_agent), visit.address ?? "unknown address", now].join(" · "));
}
