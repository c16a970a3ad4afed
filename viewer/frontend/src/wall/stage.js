// The large live ones. A viewer that stays is never put elsewhere in the document, which would cut its stream: its place is
// its `order`.

import { NOT_LOADED, element } from "../dom.js";

export class Stage {
  /** @type {Map<string, HTMLElement>} */
  #slots = new Map();
  #box;
  #live;
  /** The longest there first. @type {string[]} */
  byAge = [];

  /** @param {HTMLElement} box @param {import("../live.js").Live} live @param {(id: string) => void} close */
  constructor(box, live, close) {
    this.#box = box;
    this.#live = live;
    box.addEventListener("click", (event) => {
      const back = event.target.closest(".viewer-back");
      if (!back || event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      close(back.closest("[data-session]").dataset.session);
    });
  }

  /** @param {import("./choice.js").Choice} choice */
  show({ live, layout }) {
    for (const [id, slot] of this.#slots) {
      if (live.includes(id)) continue;
      slot.remove();
      this.#slots.delete(id);
    }
    this.byAge = [...this.byAge.filter((id) => live.includes(id)), ...live.filter((id) => !this.byAge.includes(id))];
    live.forEach((id, place) => {
      const slot = this.#slots.get(id) ?? this.#add(id);
      slot.style.order = String(place);
      slot.dataset.place = String(place + 1);
    });
    this.#box.hidden = live.length === 0;
    this.#box.dataset.layout = String(layout);
    this.#box.dataset.count = String(live.length);
  }

  #add(id) {
    const viewer = element("sandbox-viewer", { session: id, fill: true, back: "/wall" });
    // Only now is its code needed; a property that is set before it is there would hide the element's own.
    import("../viewer/sandbox-viewer.js").then(() => (viewer.live = this.#live), () => viewer.replaceChildren(element("p", { class: "notice", "data-tone": "bad", role: "alert" }, NOT_LOADED)));
    const slot = element("div", { class: "wall-slot", "data-session": id }, viewer);
    this.#slots.set(id, slot);
    this.#box.append(slot);
    return slot;
  }
}
