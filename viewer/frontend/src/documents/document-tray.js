// <document-tray>: a panel at the side of the page that shows one document of a list.
//
// The page sets `.live` (a Live) once, and calls `show(documents, id)` with what its list holds. Fires `choose` (detail: the id of another one
// that was chosen) and `close`. Esc closes it, arrow keys lead through the list, and the focus goes back to where it came from.

import { goToSignIn } from "../api.js";
import { confirmed } from "../dialogs.js";
import { element, icon, iconButton, setText } from "../dom.js";
import * as icons from "../icons.js";
import { when } from "../times.js";
import { contentOf, deleteDocument, documentPage, sizeName, taskPage, typeIcon, typeName, viewDocument } from "./document.js";

class DocumentTray extends HTMLElement {
  /** @type {import("./document.js").Document[]} */
  #documents = [];
  #id = null;
  #asked = 0;
  #parts = null;
  #live = null;
  #cameFrom = null;
  #onDocument = (event) => this.#heard(event.detail);

  set live(live) {
    this.#live = live;
    live.addEventListener("document", this.#onDocument);
  }

  get shownId() {
    return this.#id;
  }

  connectedCallback() {
    if (!this.#parts) this.#build();
  }

  disconnectedCallback() {
    this.#live?.removeEventListener("document", this.#onDocument);
  }

  /** @param {import("./document.js").Document[]} documents of the list, in its order @param {string} id */
  show(documents, id) {
    this.#documents = documents;
    const { dialog } = this.#parts;
    if (!dialog.open) {
      this.#cameFrom = document.activeElement;
      dialog.showModal();
    }
    if (id !== this.#id) this.#load(id);
    this.#renderList();
  }

  /** What the list holds now. */
  set documents(documents) {
    this.#documents = documents;
    if (this.#parts?.dialog.open) this.#renderList();
  }

  close() {
    if (this.#parts?.dialog.open) this.#parts.dialog.close();
  }

  async #load(id) {
    const asked = ++this.#asked;
    this.#id = id;
    const known = this.#documents.find((one) => one.id === id);
    const { body } = this.#parts;
    if (known) this.#renderHead(known);
    body.replaceChildren(element("div", { class: "document-waiting", role: "status" }, element("span", { class: "spinner", "aria-hidden": "true" }), element("span", { class: "visually-hidden" }, "Loading…")));
    try {
      const view = await viewDocument(id);
      if (asked !== this.#asked) return;
      // What shows contents is loaded with the first one that is opened.
      const { contentNode } = await import("./content.js");
      if (asked !== this.#asked) return;
      this.#renderHead(view.document);
      body.replaceChildren(contentNode(view, this.#live));
      body.scrollTop = 0;
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      if (asked !== this.#asked) return;
      const gone = problem.status === 404;
      const again = element("button", { class: "button", type: "button" }, "Try again");
      again.addEventListener("click", () => this.#load(id));
      body.replaceChildren(element("div", { class: "empty", role: "alert" }, element("p", { class: "empty-heading" }, gone ? "The document is gone" : "The document could not be read"), element("p", {}, gone ? "It was deleted, or it was kept long enough." : problem.message), gone ? null : again));
    }
  }

  #heard(news) {
    if (!news || news.document.id !== this.#id || !this.#parts.dialog.open) return;
    this.#load(this.#id);
  }

  #build() {
    const parts = {
      list: element("ul", { class: "tray-list" }),
      kind: element("span", { class: "tray-kind" }),
      title: element("h2", { id: "document-tray-title", dir: "auto", tabindex: "-1", autofocus: true }),
      about: element("p", { class: "tray-about" }),
      download: element("a", { class: "icon-button", title: "Download", "aria-label": "Download", download: "" }, icon(icons.download)),
      page: element("a", { class: "icon-button", title: "Open in a new tab", "aria-label": "Open in a new tab", target: "_blank", rel: "noopener" }, icon(icons.tab)),
      remove: iconButton(icons.trash, "Delete", () => this.#askToDelete(), { "data-control": "delete" }),
      body: element("div", { class: "tray-body" }),
    };
    // A watcher may not; the server is what says so.
    parts.remove.hidden = (document.body.dataset.role ?? "") === "watcher";
    const close = iconButton(icons.close, "Close", () => this.close());
    parts.nav = element("nav", { class: "tray-nav", "aria-label": "Documents" }, parts.list);
    parts.dialog = element("dialog", { class: "tray", "aria-labelledby": "document-tray-title" },
      parts.nav,
      element("article", { class: "tray-document" },
        element("header", { class: "tray-head" }, parts.kind, element("div", { class: "tray-names" }, parts.title, parts.about),
          element("div", { class: "tray-controls" }, parts.download, parts.page, parts.remove, close)),
        parts.body));
    this.#parts = parts;
    this.append(parts.dialog);
    parts.dialog.addEventListener("close", (event) => event.target === parts.dialog && this.#closed());
    // A click beside the panel is on the dialog itself.
    parts.dialog.addEventListener("click", (event) => event.target === parts.dialog && this.#isBeside(event) && this.close());
    parts.list.addEventListener("click", (event) => this.#chosen(event));
    // In the document itself the arrows scroll, or go to the desktop.
    parts.dialog.addEventListener("keydown", (event) => !parts.body.contains(event.target) && this.#moveChoice(event));
  }

  #isBeside(event) {
    const box = this.#parts.dialog.getBoundingClientRect();
    return event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom;
  }

  #closed() {
    this.#id = null;
    this.#asked++;
    // A desktop that nobody sees is let go.
    this.#parts.body.replaceChildren();
    if (this.#cameFrom?.isConnected) this.#cameFrom.focus();
    this.#cameFrom = null;
    this.dispatchEvent(new CustomEvent("close"));
  }

  #chosen(event) {
    const button = event.target.closest("button[data-id]");
    if (button) this.#choose(button.dataset.id);
  }

  #choose(id) {
    if (id === this.#id) return;
    this.#load(id);
    this.#renderList();
    this.dispatchEvent(new CustomEvent("choose", { detail: id }));
  }

  #moveChoice(event) {
    const at = this.#documents.findIndex((one) => one.id === this.#id);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.#documents.length - 1 }[event.key];
    const next = to === undefined ? null : this.#documents[to];
    if (!next) return;
    event.preventDefault();
    this.#choose(next.id);
  }

  /** @param {import("./document.js").Document} shown */
  #renderHead(shown) {
    const { kind, title, about, download, page } = this.#parts;
    kind.replaceChildren(icon(typeIcon(shown)));
    setText(title, shown.title);
    const parts = [typeName(shown), shown.language, shown.type === "sandbox" ? null : sizeName(shown.size)].filter(Boolean).join(" · ");
    about.replaceChildren(
      element("span", {}, parts),
      when(shown.updated_at),
      ...(shown.task_id ? [element("a", { href: taskPage(shown.task_id), dir: "auto" }, `Task ${shown.task_id}`)] : []),
      ...(shown.path ? [element("span", { class: "mono", dir: "auto" }, shown.path)] : []));
    download.href = contentOf(shown.id);
    page.href = documentPage(shown.id);
  }

  #renderList() {
    const { nav, list } = this.#parts;
    nav.hidden = this.#documents.length < 2;
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...this.#documents.map((one) =>
      element("li", {}, element("button", { type: "button", class: "tray-choice", "data-id": one.id, "aria-current": one.id === this.#id ? "true" : null, tabindex: one.id === this.#id ? "0" : "-1" }, icon(typeIcon(one)), element("span", { dir: "auto" }, one.title)))));
    const current = list.querySelector("[aria-current]");
    // One that is not in the list, by a deep link: the way in is the first.
    if (!current) list.querySelector("button")?.setAttribute("tabindex", "0");
    current?.scrollIntoView({ block: "nearest" });
    if (focused) (current ?? list.querySelector("button"))?.focus();
  }

  async #askToDelete() {
    const id = this.#id;
    const done = await confirmed({
      title: "Delete this document?",
      text: `“${this.#parts.title.textContent}” is deleted for everybody, for good.`,
      action: "Delete",
      keep: "Keep it",
      act: () => deleteDocument(id),
    });
    if (done) this.close();
  }
}

customElements.define("document-tray", DocumentTray);
