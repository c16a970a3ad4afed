// The desktops of one task: those that live as viewers and tiles, those that have ended as a list.
//
// The first two are live; a tile goes live on a click. A desktop that is started appears by itself, one that ends goes to the list.

import { call, goToSignIn, serverNow } from "../api.js";
import { attentionOf } from "../attention.js";
import { badge, element, setText } from "../dom.js";
import { badgeOf, inWords, isOver, nameOf } from "../session.js";
import { when } from "../times.js";
import "../tile/sandbox-tile.js";

const LIVE_BY_THEMSELVES = 2;

/** @typedef {import("../session.js").Session} Session */

/** Fires `change`: what the task's desktops are is different, or what one needs. */
export class TaskDesktops extends EventTarget {
  loaded = false;
  /** @type {import("../api.js").Problem|null} */
  problem = null;
  /** @type {Map<string, Session>} */
  #sessions = new Map();
  #cursor = null;
  #opened = new Set();
  /** @type {Map<string, {item: HTMLElement, isLive: boolean|null}>} */
  #shown = new Map();
  #parts;
  #live;
  #taskId;

  /** @param {{taskId: string, live: import("../live.js").Live, parts: Record<string, HTMLElement>}} options */
  constructor({ taskId, live, parts }) {
    super();
    this.#taskId = taskId;
    this.#live = live;
    this.#parts = parts;
    live.addEventListener("change", (event) => this.#heard(event.detail));
    live.addEventListener("stale", () => this.#load());
    parts.older.addEventListener("click", () => this.#loadOlder());
    // What one needs changes with time alone, too.
    setInterval(() => this.dispatchEvent(new CustomEvent("change")), 5000);
  }

  /** Those that have not ended, in the order in which they were started: none moves because of a new one. */
  get active() {
    return [...this.#sessions.values()].filter((session) => !isOver(session)).sort((a, b) => Date.parse(a.created_at) - Date.parse(b.created_at) || (a.id < b.id ? -1 : 1));
  }

  get ended() {
    const at = (session) => Date.parse(session.terminated_at ?? session.updated_at);
    return [...this.#sessions.values()].filter(isOver).sort((a, b) => at(b) - at(a));
  }

  async #load() {
    try {
      // One that lives may be older than the newest page.
      const [page, living] = await Promise.all([this.#page(null), this.#living()]);
      const listed = [...page.items, ...living.items];
      const known = new Set(listed.map((session) => session.id));
      // What lived when it was last heard of and is on no list has ended long ago.
      for (const [id, session] of this.#sessions) if (!known.has(id) && !isOver(session)) this.#sessions.delete(id);
      this.#take(listed);
      this.#cursor ??= page.next_cursor;
      this.problem = null;
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      this.problem = problem;
    }
    this.loaded = true;
    this.#render();
  }

  #page(cursor) {
    return call("GET", `/api/v1/sessions?${new URLSearchParams({ task_id: this.#taskId, limit: "50", ...(cursor ? { cursor } : {}) })}`);
  }

  #living() {
    return call("GET", `/api/v1/sessions?${new URLSearchParams([["task_id", this.#taskId], ["limit", "200"], ...["creating", "running", "paused"].map((status) => ["status", status])])}`);
  }

  /** All at once: each change that is told draws the page anew. @param {Session[]} sessions */
  #take(sessions) {
    this.#live.acceptAll(sessions);
    for (const { id } of sessions) this.#sessions.set(id, this.#live.sessions.get(id));
  }

  async #loadOlder() {
    this.#parts.older.disabled = true;
    try {
      const page = await this.#page(this.#cursor);
      this.#take(page.items);
      this.#cursor = page.next_cursor;
      this.problem = null;
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      this.problem = problem;
    }
    this.#parts.older.disabled = false;
    this.#render();
  }

  #heard(session) {
    if (!session || (session.task_id !== this.#taskId && !this.#sessions.has(session.id))) return;
    this.#sessions.set(session.id, session);
    if (this.loaded) this.#render();
  }

  #render() {
    const { list, ended, endedList, endedCount, olderBox } = this.#parts;
    const active = this.active;
    const wanted = new Set(active.map((session) => session.id));
    for (const [id, { item }] of this.#shown) {
      if (wanted.has(id)) continue;
      item.remove();
      this.#shown.delete(id);
      this.#opened.delete(id);
    }
    active.forEach((session, index) => this.#place(list, session, index));
    const over = this.ended;
    ended.hidden = over.length === 0;
    setText(endedCount, `${over.length}${this.#cursor ? "+" : ""}`);
    this.#renderEnded(endedList, over);
    olderBox.hidden = !this.#cursor;
    this.dispatchEvent(new CustomEvent("change"));
  }

  #place(list, session, index) {
    const isLive = index < LIVE_BY_THEMSELVES || this.#opened.has(session.id);
    let entry = this.#shown.get(session.id);
    if (!entry) this.#shown.set(session.id, (entry = { item: element("li", { "data-session": session.id }), isLive: null }));
    if (entry.isLive !== isLive) {
      entry.isLive = isLive;
      entry.item.dataset.live = String(isLive);
      entry.item.replaceChildren(isLive ? this.#viewer(session) : this.#tile(session));
    }
    // Moving a node that is where it should be would end its stream.
    if (list.children[index] !== entry.item) list.insertBefore(entry.item, list.children[index] ?? null);
  }

  #viewer(session) {
    const viewer = element("sandbox-viewer", { session: session.id, compact: true });
    viewer.live = this.#live;
    return viewer;
  }

  #tile(session) {
    const tile = element("sandbox-tile", { session: session.id });
    tile.live = this.#live;
    tile.button.title = "Show it live";
    tile.addEventListener("open", () => this.#open(session));
    return tile;
  }

  /** A tile goes live, and keeps the focus that was on it. */
  #open(session) {
    this.#opened.add(session.id);
    this.#render();
    this.#shown.get(session.id)?.item.querySelector("a, button:not(:disabled)")?.focus();
  }

  /** @param {HTMLElement} list @param {Session[]} over */
  #renderEnded(list, over) {
    const said = JSON.stringify(over.map((session) => [session.id, session.status, session.error_message, session.status_reason]));
    if (list.dataset.said === said) return;
    list.dataset.said = said;
    list.replaceChildren(...over.map(endedItem));
  }

  /** What a person should look at first; null when nothing needs anybody. */
  get attention() {
    const now = serverNow();
    const needs = this.active.map((session) => ({ session, ...attentionOf(session, now) })).filter(({ tone }) => tone === "warn" || tone === "bad");
    return needs.sort((a, b) => a.rank - b.rank)[0] ?? null;
  }
}

/** @param {Session} session */
function endedItem(session) {
  const at = session.terminated_at ?? session.updated_at;
  const reason = session.error_message ?? inWords(session.status_reason);
  return element("li", {},
    element("span", { class: "task-ended-line" },
      element("a", { class: "mono", href: `/sandboxes/${session.id}`, target: document.body.classList.contains("page-task-panel") ? "_blank" : null, rel: "noopener" }, nameOf(session)),
      badge(badgeOf(session)), when(at)),
    reason && element("p", { class: "task-ended-reason", dir: "auto" }, reason));
}
