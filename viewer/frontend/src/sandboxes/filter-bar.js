// What narrows the list: a text, four usual choices, a panel for all others, and each of those as a chip that takes it away.

import { element, icon, setText } from "../dom.js";
import * as icons from "../icons.js";
import { LIVE, SORTS, everything } from "./filter.js";

const TYPED_MS = 250;
const PRESETS = { all: {}, active: { status: LIVE }, help: { help: true }, failed: { status: ["error"] } };
const CHIPS = { host: "Host", image: "Image", task: "Task", agent: "Agent" };

/** Fires `filter` (detail: {filter, isTyped}). */
export class FilterBar extends EventTarget {
  #filter = everything();
  #search = document.querySelector("#list-search");
  #presets = document.querySelector("#list-filter");
  #chips = document.querySelector("#list-chips");
  #sort = document.querySelector("#list-sort");
  #menu = document.querySelector("#filter-menu");
  #panel = null;
  #timer = 0;

  constructor() {
    super();
    document.querySelector(".search").prepend(icon(icons.search));
    this.#menu.querySelector("summary").prepend(icon(icons.filter));
    this.#sort.append(...Object.entries(SORTS).map(([value, label]) => element("option", { value }, label)));
    this.#search.addEventListener("input", () => this.#typed());
    this.#search.addEventListener("search", () => this.#apply({ q: this.#search.value }, { isTyped: true }));
    this.#presets.addEventListener("change", (event) => this.#apply({ status: [], help: false, ...PRESETS[event.target.value] }));
    this.#sort.addEventListener("change", () => this.#apply({ sort: this.#sort.value }));
    this.#menu.addEventListener("toggle", () => this.#menu.open && this.#openPanel());
  }

  focusSearch() {
    this.#search.focus();
    this.#search.select();
  }

  clear() {
    this.#apply({ ...everything(), sort: this.#filter.sort });
  }

  /** @param {import("./filter.js").Filter} filter from the address */
  show(filter) {
    this.#filter = filter;
    // Not under the hands of who types: spaces at the end are not part of the filter.
    if (document.activeElement !== this.#search) this.#search.value = filter.q;
    this.#sort.value = filter.sort;
    const preset = presetOf(filter);
    for (const radio of this.#presets.querySelectorAll("input")) radio.checked = radio.value === preset;
    this.#panel?.show(filter);
    this.#showChips(preset);
  }

  /** @param {{help: number, failed: number, active: number}} counts */
  count(counts) {
    for (const node of this.#presets.querySelectorAll("[data-count]")) setText(node, counts[node.dataset.count] ? many(counts[node.dataset.count]) : "");
  }

  #typed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#apply({ q: this.#search.value }, { isTyped: true }), TYPED_MS);
  }

  #apply(change, { isTyped = false } = {}) {
    clearTimeout(this.#timer);
    this.dispatchEvent(new CustomEvent("filter", { detail: { filter: { ...this.#filter, ...change }, isTyped } }));
  }

  #showChips(preset) {
    const chips = Object.keys(CHIPS).filter((field) => this.#filter[field]).map((field) => this.#chip(CHIPS[field], this.#filter[field], { [field]: "" }));
    if (preset === null) chips.unshift(this.#chip("Status", [...this.#filter.status, this.#filter.help && "needs a person"].filter(Boolean).join(", "), { status: [], help: false }));
    setText(this.#menu.querySelector(".count"), chips.length ? String(chips.length) : "");
    this.#chips.replaceChildren(...chips);
    this.#chips.hidden = !chips.length;
  }

  #chip(name, value, without) {
    const away = element("button", { type: "button", class: "chip-away", "aria-label": `Without ${name.toLowerCase()} ${value}` }, icon(icons.close));
    away.addEventListener("click", () => this.#apply(without));
    return element("li", { class: "chip" }, element("span", { class: "chip-name" }, name), element("span", { class: "chip-value", dir: "auto" }, value), away);
  }

  async #openPanel() {
    if (this.#panel) return this.#panel.refresh();
    const place = this.#menu.querySelector(".menu-panel");
    try {
      const { FilterPanel } = await import("./extras.js");
      this.#panel ??= new FilterPanel(place, (change) => this.#apply(change));
      this.#panel.show(this.#filter);
    } catch {
      place.replaceChildren(element("p", { class: "menu-note" }, "This part of the page could not be loaded. Reload the page."));
    }
  }
}

const many = (number) => (number > 999 ? "999+" : String(number));

/** The usual choice that the filter is; null for any other. */
function presetOf({ status, help }) {
  if (help) return status.length ? null : "help";
  if (!status.length) return "all";
  if (status.length === 1 && status[0] === "error") return "failed";
  return status.length === LIVE.length && LIVE.every((one) => status.includes(one)) ? "active" : null;
}
