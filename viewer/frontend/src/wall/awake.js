// Keeps the screen on while the wall is all that is on it, where the browser can.

export class Awake {
  #lock = null;
  #isWanted = false;

  constructor() {
    // The browser lets go of it whenever the page is hidden.
    document.addEventListener("visibilitychange", () => this.#hold());
  }

  set wanted(wanted) {
    this.#isWanted = wanted;
    this.#hold();
  }

  async #hold() {
    if (!this.#isWanted || document.hidden) {
      this.#lock?.release().catch(() => {});
      this.#lock = null;
      return;
    }
    if (this.#lock && !this.#lock.released) return;
    try {
      this.#lock = (await navigator.wakeLock?.request("screen")) ?? null;
      // It was left meanwhile.
      if (!this.#isWanted) this.#hold();
    } catch {
      this.#lock = null; // a low battery, or a page that may not
    }
  }
}
