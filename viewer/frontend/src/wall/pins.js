// Which desktops this browser keeps in front. What the browser cannot keep is kept until the page is left.

const KEY = "deskfleet.wall.pins";
const SIZE_KEY = "deskfleet.wall.size";
const MOST = 200;

export class Pins {
  /** @type {Set<string>} */
  ids;

  constructor() {
    this.ids = new Set(read(KEY, []).filter((id) => typeof id === "string"));
  }

  has(id) {
    return this.ids.has(id);
  }

  toggle(id) {
    if (!this.ids.delete(id)) this.ids.add(id);
    // Of desktops that are long gone nobody takes the pin out: the oldest ones go.
    this.ids = new Set([...this.ids].slice(-MOST));
    write(KEY, [...this.ids]);
  }
}

export const usualSize = () => read(SIZE_KEY, "m");
export const keepSize = (size) => write(SIZE_KEY, size);

function read(key, fallback) {
  try {
    const found = JSON.parse(localStorage.getItem(key) ?? "null");
    return typeof found === typeof fallback && Array.isArray(found) === Array.isArray(fallback) ? found : fallback;
  } catch {
    return fallback;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Forbidden, or full.
  }
}
