// The tiles, in their groups. What is where it should be is not touched; nothing moves under a hand.

import { element, iconButton, setText } from "../dom.js";
import * as icons from "../icons.js";
import "../tile/sandbox-tile.js";

/** After the pointer's last move a person is still about to click. */
const HAND_MS = 2000;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Grid extends EventTarget {
  #box;
  #live;
  #pins;
  /** @type {Map<string, {tile: HTMLElement, pin: HTMLElement}>} */
  #tiles = new Map();
  /** @type {Map<string, {box: HTMLElement, heading: HTMLElement, tiles: HTMLElement}>} */
  #groups = new Map();
  #handAt = -Infinity;

  /** Fires `pin` and `put` (detail: {id, place}). */
  constructor(box, live, pins) {
    super();
    this.#box = box;
    this.#live = live;
    this.#pins = pins;
    box.addEventListener("pointermove", () => (this.#handAt = performance.now()), { passive: true });
    box.addEventListener("pointerleave", () => (this.#handAt = -Infinity));
    box.addEventListener("keydown", (event) => this.#pressed(event));
    box.addEventListener("focusin", (event) => this.#focused(event.target.closest("sandbox-tile")));
  }

  get tiles() {
    return [...this.#box.querySelectorAll("sandbox-tile")];
  }

  /** Is somebody about to click on one of them? Then they stay where they are. */
  get isHandled() {
    return performance.now() - this.#handAt < HAND_MS || this.#box.contains(document.activeElement);
  }

  /**
   * @param {{name: string, sessions: import("../session.js").Session[]}[]} groups @param {string[]} large ids
   */
  show(groups, large) {
    const wanted = new Set(groups.flatMap(({ sessions }) => sessions.map(({ id }) => id)));
    for (const [id, { tile }] of this.#tiles) {
      if (wanted.has(id)) continue;
      this.#passFocusFrom(tile);
      tile.remove();
      this.#tiles.delete(id);
    }
    for (const [name, group] of this.#groups) {
      if (groups.some((one) => one.name === name)) continue;
      group.box.remove();
      this.#groups.delete(name);
    }
    groups.forEach(({ name, sessions }, index) => {
      const group = this.#groups.get(name) ?? this.#newGroup(name);
      place(this.#box, group.box, index);
      setText(group.heading, name ? `${name} · ${sessions.length}` : "");
      group.heading.hidden = !name;
      sessions.forEach(({ id }, at) => place(group.tiles, (this.#tiles.get(id) ?? this.#newTile(id)).tile, at));
    });
    for (const [id, { tile, pin }] of this.#tiles) mark(tile, pin, large.indexOf(id), this.#pins.has(id));
    this.#focused(this.tiles.find((tile) => tile.contains(document.activeElement)) ?? this.tiles.find((tile) => tile.button.tabIndex === 0) ?? this.tiles[0]);
  }

  #newGroup(name) {
    const group = { heading: element("h2", { class: "wall-group", dir: "auto" }), tiles: element("div", { class: "wall-tiles" }), box: element("section", {}) };
    group.box.append(group.heading, group.tiles);
    this.#groups.set(name, group);
    return group;
  }

  #newTile(id) {
    const tile = element("sandbox-tile", { session: id, draggable: "true" });
    const pin = iconButton(icons.pin, "Pin", () => this.#tell("pin", { id }), { class: "icon-button tile-pin", tabindex: "-1" });
    tile.actions.append(pin);
    tile.button.tabIndex = -1;
    tile.live = this.#live;
    const made = { tile, pin };
    this.#tiles.set(id, made);
    return made;
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  // ---- keyboard -----------------------------------------------------------------------------------------------

  /** One of a hundred is in the order of Tab; the arrows lead to the others. */
  #focused(tile) {
    if (!tile) return;
    for (const { tile: other, pin } of this.#tiles.values()) {
      other.button.tabIndex = other === tile ? 0 : -1;
      pin.tabIndex = other === tile ? 0 : -1;
    }
  }

  #pressed(event) {
    const tile = event.target.closest("sandbox-tile");
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEPS[event.key];
    const next = step ? this.#beside(tile, step) : { Home: this.tiles[0], End: this.tiles.at(-1) }[event.key];
    if (next) next.button.focus();
    else if (/^[1-4]$/.test(event.key)) this.#tell("put", { id: tile.sessionId, place: Number(event.key) - 1 });
    else if (event.key.toLowerCase() === "p") this.#tell("pin", { id: tile.sessionId });
    else return;
    event.preventDefault();
  }

  /** The nearest one that way, by where they are on the page. */
  #beside(tile, [dx, dy]) {
    const all = this.tiles;
    if (dx) return all[all.indexOf(tile) + dx];
    const here = tile.getBoundingClientRect();
    const distance = (other) => Math.abs(other.top - here.top) * 4 + Math.abs(other.left - here.left);
    return all
      .map((one) => ({ one, box: one.getBoundingClientRect() }))
      .filter(({ box }) => (box.top - here.top) * dy > here.height / 2)
      .sort((a, b) => distance(a.box) - distance(b.box))[0]?.one;
  }

  #passFocusFrom(tile) {
    if (!tile.contains(document.activeElement)) return;
    const all = this.tiles;
    const at = all.indexOf(tile);
    (all[at + 1] ?? all[at - 1])?.button.focus();
  }
}

function place(parent, child, index) {
  const there = parent.children[index];
  if (there === child) return;
  // Where the browser can, without taking the focus and the picture from it.
  if (child.isConnected && parent.isConnected && parent.moveBefore) parent.moveBefore(child, there ?? null);
  else parent.insertBefore(child, there ?? null);
}

function mark(tile, pin, place, isPinned) {
  tile.dataset.place = place < 0 ? "" : String(place + 1);
  tile.button.setAttribute("aria-pressed", String(place >= 0));
  if (pin.getAttribute("aria-pressed") === String(isPinned)) return;
  pin.setAttribute("aria-pressed", String(isPinned));
  const label = isPinned ? "Take the pin out" : "Pin: keep it in front, in this browser";
  pin.title = label;
  pin.setAttribute("aria-label", label);
}
