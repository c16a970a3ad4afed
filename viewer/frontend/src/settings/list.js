// A list of settings: read a page at a time, and said what is so when there is none.

import { call, goToSignIn } from "../api.js";
import { element, icon } from "../dom.js";

/**
 * @template Item
 * @typedef {object} Wanted
 * @property {string} label of the table
 * @property {string[]} columns their names; the last one, "", is of buttons
 * @property {(item: Item) => (Node|string)[]} cells one for each column
 * @property {(item: Item) => boolean} isOver it is history
 * @property {{icon: [string, Record<string, string>][], heading: string, text: string}} empty
 */

export class SettingsList {
  #body = element("tbody", { role: "rowgroup" });
  #wanted;
  #path = "";
  #cursor = null;
  #asked = 0;

  /** @param {Wanted<any>} wanted */
  constructor(wanted) {
    this.#wanted = wanted;
    const heads = wanted.columns.map((name) => element("th", { role: "columnheader", scope: "col" }, name || element("span", { class: "visually-hidden" }, "Actions")));
    const table = element("table", { class: "table cards", role: "table", "aria-label": wanted.label }, element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), this.#body);
    this.table = element("div", { class: "table-scroll" }, table);
    this.note = element("div", { class: "settings-note" });
    this.older = element("button", { type: "button", class: "button" }, "Show older");
    this.older.addEventListener("click", () => this.#read(this.#cursor));
    this.paging = element("div", { class: "paging", hidden: true }, this.older);
    this.root = element("div", { class: "card flush" }, this.table, this.note, this.paging);
    this.#say("loading");
  }

  /** @param {string} path of the API, with its conditions @returns {Promise<void>} */
  read(path = this.#path) {
    this.#path = path;
    return this.#read(null);
  }

  async #read(cursor) {
    const asked = ++this.#asked;
    this.older.disabled = true;
    try {
      const page = await call("GET", this.#path + (cursor ? `${this.#path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}` : ""));
      if (asked !== this.#asked) return;
      const rows = page.items.map((item) => this.#row(item));
      const focused = cursor ? rows[0] : null;
      if (cursor) this.#body.append(...rows);
      else this.#body.replaceChildren(...rows);
      this.#cursor = page.next_cursor ?? null;
      this.paging.hidden = !this.#cursor;
      // The button may be gone now: go on where it led to.
      if (focused && !this.#cursor) focusInside(focused);
      this.#say(this.#body.children.length ? "" : "empty");
    } catch (problem) {
      if (problem.status === undefined) throw problem;
      if (problem.status === 401) return goToSignIn();
      if (asked === this.#asked) this.#say("error", problem.message);
    } finally {
      this.older.disabled = false;
    }
  }

  #row(item) {
    const { columns, cells, isOver } = this.#wanted;
    const made = cells(item).map((content, index) => {
      const name = columns[index];
      const parts = Array.isArray(content) ? content : [content];
      if (index === 0) return element("th", { role: "rowheader", scope: "row" }, ...parts);
      const isEmpty = parts.every((part) => part === "" || part === null);
      const shown = element("span", {}, ...parts.filter((part) => part !== null));
      return name ? element("td", { role: "cell", "data-label": name, "data-empty": isEmpty || false }, shown) : element("td", { role: "cell", class: "end", "data-empty": isEmpty || false }, shown);
    });
    return element("tr", { role: "row", "data-over": String(isOver(item)), "data-id": item.id ?? item.number }, ...made);
  }

  /** @param {""|"loading"|"empty"|"error"} state */
  #say(state, message = "") {
    this.table.hidden = state === "loading" || state === "empty" || (state === "error" && !this.#body.children.length);
    const { empty } = this.#wanted;
    if (state === "") return this.note.replaceChildren();
    if (state === "loading") return this.note.replaceChildren(element("div", { class: "skeleton", role: "status" }, element("span", { class: "visually-hidden" }, "Loading…"), element("i"), element("i")));
    if (state === "empty") return this.note.replaceChildren(element("div", { class: "empty" }, icon(empty.icon), element("p", { class: "empty-heading" }, empty.heading), element("p", {}, empty.text)));
    const again = element("button", { type: "button", class: "button" }, "Try again");
    again.addEventListener("click", () => this.read());
    this.note.replaceChildren(element("p", { class: "notice", "data-tone": "bad", role: "alert" }, element("span", {}, message), again));
  }
}

function focusInside(row) {
  const first = row.querySelector("a, button");
  if (first) return first.focus();
  row.tabIndex = -1;
  row.focus();
}

/** A row's button. @param {string} label @param {string} of what it is for, for those who hear it alone */
export function rowButton(label, of, onClick) {
  const button = element("button", { type: "button", class: "button small", "aria-label": `${label}: ${of}` }, label);
  button.addEventListener("click", onClick);
  return button;
}

/** A name with something smaller under it. */
export const named = (name, ...sub) => [element("span", { dir: "auto" }, name), element("span", { class: "table-sub" }, ...sub)];
