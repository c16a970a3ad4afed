// A tile that is dragged to where the large ones are.

import { element } from "../dom.js";

const KIND = "text/x-deskfleet-session";
const MOST = 4;

/**
 * @param {{tiles: HTMLElement, area: HTMLElement, large: () => number, put: (id: string, place: number) => void}} parts
 * `area`: over which the places are shown while a tile is in the air; `large`: how many there are
 */
export function letDrag({ tiles, area, large, put }) {
  const places = element("div", { class: "wall-places", hidden: true });
  area.append(places);

  const over = () => (places.hidden = true);

  tiles.addEventListener("dragstart", (event) => {
    const tile = event.target.closest("sandbox-tile");
    if (!tile) return;
    event.dataTransfer.setData(KIND, tile.sessionId);
    event.dataTransfer.effectAllowed = "move";
    const count = Math.min(large() + 1, MOST);
    places.replaceChildren(...Array.from({ length: count }, (_, place) => element("div", { class: "wall-place", "data-place": place }, `Show large ${count > 1 ? `at ${place + 1}` : ""}`.trim())));
    places.dataset.count = String(count);
    // Chrome ends a drag at once when what is under it changes while it begins.
    setTimeout(() => (places.hidden = false));
  });
  places.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes(KIND)) return;
    event.preventDefault();
    for (const place of places.children) place.dataset.over = String(place === event.target);
  });
  places.addEventListener("drop", (event) => {
    const place = event.target.closest("[data-place]");
    const id = event.dataTransfer.getData(KIND);
    over();
    if (!place || !id) return;
    event.preventDefault();
    put(id, Number(place.dataset.place));
  });
  addEventListener("dragend", over);
}
