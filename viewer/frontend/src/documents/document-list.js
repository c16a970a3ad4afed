// <document-list>: documents by what is asked for, newest first, kept true by the event stream.
//
// `small`: without the column of tasks. The page sets `.live` (a Live) once and `.wanted` ({task_id, session_id, type}) as often as
// it likes. Fires `open` (detail: the document's id) and `change`; `.documents` is what is listed.

import { goToSignIn } from "../api.js";
import { element, icon, setText } from "../dom.js";
import * as icons from "../icons.js";
import { when } from "../times.js";
import { documentPage, listDocuments, sizeName, typeIcon, typeName } from "./document.js";

class DocumentList extends HTMLElement {
  /** @type {import("./document.js").Document[]} */
  documents = [];
  /** @type {boolean} more are there than are listed */
  hasMore = false;
  loaded = false;
  #wanted = {};
  #cursor = null;
  #problem = null;
  #asked = 0;
  #parts = null;
  #live = null;
  #onDocument = (event) => this.#heard(event.detail);
  #onStale = () => this.load();

  set live(live) {
    this.#live = live;
    live.addEventListener("document", this.#onDocument);
    live.addEventListener("stale", this.#onStale);
  }

  /** @param {Record<string, string>} wanted empty ones count for nothing */
  set wanted(wanted) {
    this.#wanted = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value));
    this.load();
  }

  connectedCallback() {
    if (!this.#parts) this.#build();
    this.#render();
  }

  disconnectedCallback() {
    this.#live?.removeEventListener("document", this.#onDocument);
    this.#live?.removeEventListener("stale", this.#onStale);
  }

  async load() {
    const asked = ++this.#asked;
    try {
      const page = await listDocuments({ ...this.#wanted, limit: 50 });
      if (asked !== this.#asked) return;
      this.documents = page.items;
      this.#cursor = page.next_cursor;
      this.#problem = null;
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      if (asked !== this.#asked) return;
      this.#problem = problem;
    }
    this.loaded = true;
    this.#render();
  }

  async #loadOlder() {
    const asked = this.#asked;
    this.#parts.older.disabled = true;
    try {
      const page = await listDocuments({ ...this.#wanted, limit: 50, cursor: this.#cursor });
      if (asked !== this.#asked) return;
      const known = new Set(this.documents.map((one) => one.id));
      this.documents = [...this.documents, ...page.items.filter((one) => !known.has(one.id))];
      this.#cursor = page.next_cursor;
      this.#render();
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      setText(this.#parts.problem, problem.message);
    } finally {
      this.#parts.older.disabled = false;
    }
  }

  #heard(news) {
    if (!news) return this.load();
    const { change, document } = news;
    const others = this.documents.filter((one) => one.id !== document.id);
    const fits = Object.entries(this.#wanted).every(([name, value]) => document[name] === value);
    const stays = change !== "deleted" && fits;
    if (!stays && others.length === this.documents.length) return;
    this.documents = stays ? [...others, document].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at) || (a.id < b.id ? 1 : -1)) : others;
    this.#render();
  }

  #build() {
    const parts = {
      list: element("ul", { class: "documents" }),
      note: element("div", { class: "documents-note" }),
      problem: element("p", { class: "notice", "data-tone": "bad", role: "alert", hidden: true }),
      older: element("button", { class: "button", type: "button" }, "Show older"),
    };
    parts.paging = element("div", { class: "paging", hidden: true }, parts.older);
    this.#parts = parts;
    this.append(parts.note, parts.list, parts.paging);
    parts.older.addEventListener("click", () => this.#loadOlder());
    parts.list.addEventListener("click", (event) => this.#clicked(event));
    parts.list.addEventListener("keydown", (event) => this.#moveFocus(event));
  }

  #clicked(event) {
    const link = event.target.closest("a[data-id]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    this.dispatchEvent(new CustomEvent("open", { detail: link.dataset.id }));
  }

  #moveFocus(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const links = [...this.#parts.list.querySelectorAll("a[data-id]")];
    const next = links[links.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  #render() {
    if (!this.#parts) return;
    const { list, note, paging } = this.#parts;
    this.hasMore = Boolean(this.#cursor);
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    list.replaceChildren(...this.documents.map((one) => this.#row(one)));
    if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
    note.hidden = this.documents.length > 0;
    if (!note.hidden) note.replaceChildren(this.#noteNode());
    paging.hidden = !this.hasMore;
    this.dispatchEvent(new CustomEvent("change"));
  }

  #noteNode() {
    if (!this.loaded) return element("div", { class: "skeleton documents-loading", role: "status" }, element("span", { class: "visually-hidden" }, "Loading…"), element("i"), element("i"));
    if (this.#problem) return element("div", { class: "empty" }, element("p", { class: "empty-heading" }, "The documents could not be read"), element("p", {}, this.#problem.message));
    const { task_id: task, ...rest } = this.#wanted;
    const filtered = this.hasAttribute("small") ? Object.keys(rest).length : Object.keys(this.#wanted).length;
    if (filtered) return element("div", { class: "empty" }, element("p", { class: "empty-heading" }, "No document is like that"), element("p", {}, "Choose another filter to see more."));
    const more = this.hasAttribute("small") ? null : element("p", {}, "Agents put down reports, pictures and files here, by ", element("code", {}, "POST /api/v1/documents"), ".");
    return element("div", { class: "empty" }, icon(icons.document), element("p", { class: "empty-heading" }, "No documents yet"), more);
  }

  /** @param {import("./document.js").Document} one */
  #row(one) {
    const small = this.hasAttribute("small");
    const about = [typeName(one), one.type === "sandbox" ? null : sizeName(one.size)].filter(Boolean).join(" · ");
    const task = element("span", { class: "document-task", dir: "auto" }, one.task_id ? `Task ${one.task_id}` : "");
    return element("li", {},
      element("a", { class: "document-row", href: documentPage(one.id), "data-id": one.id },
        icon(typeIcon(one)),
        element("span", { class: "document-what" }, element("span", { class: "document-title", dir: "auto" }, one.title), one.path && element("span", { class: "document-path", dir: "auto" }, one.path)),
        element("span", { class: "document-about" }, element("span", {}, about), !small && task, when(one.updated_at))));
  }
}

customElements.define("document-list", DocumentList);
