// Small pictures of desktops, about one a second: one feed for a page, whatever shows them. Only what somebody looks at is
// asked for, and only what has changed travels.

import { bytesOf, call } from "./api.js";

const EVERY_MS = 1000;
const BACK_OFF_MS = [1000, 2000, 4000, 8000, 15_000];
/** A relay waits up to two seconds for a first picture, and all the others with it: one without a picture is not asked for so often. */
const NONE_EVERY_MS = 3000;
const MOST_AT_ONCE = 100;
/** Tiles that come together are asked for together. */
const GATHER_MS = 30;
/** So many asked for in vain are a fault to be shown. */
const MISSES_SHOWN = 2;

/**
 * @typedef {object} Picture
 * @property {string|null} url of the last picture, good until the next one comes; null: there was none yet
 * @property {number} width of the screen itself, in pixels; 0 while unknown
 * @property {number} height
 * @property {string|null} changedAt when the screen last changed, as far as that was seen
 * @property {string} why "" while the picture is as the desktop is now; else why it is not, as a sentence
 */

/** Fires `state` when the pictures stop and when they go on (`isSilent`). */
export class Thumbnails extends EventTarget {
  /** The last questions were in vain: pictures are as they were. */
  isSilent = false;
  /** Pixels; of all pictures. A change is good from the next question on. */
  width = 320;

  #ask;
  /** @type {Map<string, {watchers: Set<object>, etag: string|null, picture: Picture, notBefore: number, width: number}>} */
  #entries = new Map();
  #observer = null;
  #watcherOf = new WeakMap();
  #timer = 0;
  #due = Infinity;
  #isAsking = false;
  #misses = 0;
  /** Where the last question ended, when not all fit into one. */
  #turn = 0;

  /** @param {{call?: typeof call}} connection */
  constructor(connection = { call }) {
    super();
    this.#ask = (items) => connection.call("POST", "/api/v1/thumbnails", { width: this.width, items });
    document.addEventListener("visibilitychange", () => this.#soon(0));
    addEventListener("online", () => this.#soon(0));
  }

  /**
   * @param {string} sessionId
   * @param {(picture: Picture) => void} callback at once with what is known, and with each change
   * @param {Element} [element] asked for while it is on the screen; without one, always
   * @returns {{stop: () => void, rest: (resting: boolean) => void}} `rest`: not asked for meanwhile; its last picture stays good
   */
  watch(sessionId, callback, element) {
    const entry = this.#entryOf(sessionId);
    const watcher = { callback, isSeen: !element, isResting: false };
    entry.watchers.add(watcher);
    entry.notBefore = 0;
    if (element) this.#observe(element, watcher);
    if (entry.picture.url || entry.picture.why) callback(entry.picture);
    this.#soon(GATHER_MS);
    return {
      stop: () => {
        if (element) this.#unobserve(element, watcher);
        entry.watchers.delete(watcher);
        if (entry.watchers.size === 0 && this.#entries.get(sessionId) === entry) this.#forget(sessionId, entry);
      },
      rest: (resting) => {
        if (watcher.isResting && !resting) entry.notBefore = 0;
        watcher.isResting = resting;
        this.#soon(GATHER_MS);
      },
    };
  }

  #entryOf(sessionId) {
    let entry = this.#entries.get(sessionId);
    if (!entry) {
      const picture = { url: null, width: 0, height: 0, changedAt: null, why: "" };
      this.#entries.set(sessionId, (entry = { watchers: new Set(), etag: null, picture, notBefore: 0, width: 0 }));
    }
    return entry;
  }

  #forget(sessionId, entry) {
    this.#entries.delete(sessionId);
    if (entry.picture.url) URL.revokeObjectURL(entry.picture.url);
  }

  // ---- what is looked at ----------------------------------------------------------------------------------------

  #observe(element, watcher) {
    this.#observer ??= new IntersectionObserver((changes) => this.#seen(changes), { rootMargin: "160px" });
    this.#watcherOf.set(element, watcher);
    this.#observer.observe(element);
  }

  #unobserve(element, watcher) {
    if (this.#watcherOf.get(element) !== watcher) return;
    this.#watcherOf.delete(element);
    this.#observer.unobserve(element);
  }

  #seen(changes) {
    for (const { target, isIntersecting } of changes) {
      const watcher = this.#watcherOf.get(target);
      if (watcher) watcher.isSeen = isIntersecting;
    }
    this.#soon(GATHER_MS);
  }

  #wanted(now) {
    return [...this.#entries].filter(([, entry]) => entry.notBefore <= now && [...entry.watchers].some(({ isSeen, isResting }) => isSeen && !isResting));
  }

  /** As many as one question holds, each in its turn. */
  #inTurn(wanted) {
    if (wanted.length <= MOST_AT_ONCE) return wanted;
    const from = this.#turn % wanted.length;
    this.#turn = from + MOST_AT_ONCE;
    return [...wanted.slice(from), ...wanted.slice(0, from)].slice(0, MOST_AT_ONCE);
  }

  // ---- the rhythm -----------------------------------------------------------------------------------------------

  #soon(wait) {
    const due = performance.now() + wait;
    if (this.#isAsking || (this.#timer && this.#due <= due)) return;
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = setTimeout(() => this.#round(), wait);
  }

  async #round() {
    this.#timer = 0;
    if (document.hidden) return; // `visibilitychange` goes on
    const began = performance.now();
    const wanted = this.#inTurn(this.#wanted(began));
    let wait = EVERY_MS;
    if (wanted.length > 0) {
      this.#isAsking = true;
      wait = await this.#askFor(wanted, began);
      this.#isAsking = false;
    }
    if (this.#entries.size > 0) this.#soon(wait);
  }

  /** @returns {Promise<number>} milliseconds until the next question */
  async #askFor(wanted, began) {
    const width = this.width;
    const items = wanted.map(([id, entry]) => ({ session_id: id, etag: entry.width === width ? entry.etag : null }));
    try {
      const answer = await this.#ask(items);
      for (const item of answer.items) this.#take(item, width);
      this.#count(0);
    } catch (problem) {
      this.#count(this.#misses + 1);
      return Math.max(problem.retryAfter * 1000 || 0, BACK_OFF_MS[Math.min(this.#misses, BACK_OFF_MS.length) - 1]);
    }
    // One second from question to question; a server that takes long gets as much time for others.
    const took = performance.now() - began;
    return Math.max(EVERY_MS - took, Math.min(took, 5 * EVERY_MS));
  }

  #count(misses) {
    this.#misses = misses;
    const isSilent = misses >= MISSES_SHOWN;
    if (isSilent === this.isSilent) return;
    this.isSilent = isSilent;
    this.dispatchEvent(new Event("state"));
  }

  #take(item, width) {
    const entry = this.#entries.get(item.session_id);
    if (!entry) return;
    const before = entry.picture;
    const picture = { ...before, why: "" };
    if (item.result === "none") {
      picture.why = item.detail ?? "There is no picture now.";
      entry.notBefore = performance.now() + NONE_EVERY_MS;
    } else {
      Object.assign(picture, { width: item.screen_width, height: item.screen_height, changedAt: item.changed_at });
    }
    if (item.data) {
      // Not by a data: address: `connect-src` forbids it, and as an image each one would stay in the document as text.
      picture.url = URL.createObjectURL(new Blob([bytesOf(item.data)], { type: "image/jpeg" }));
      Object.assign(entry, { etag: item.etag, width });
    }
    if (picture.url === before.url && picture.why === before.why && picture.changedAt === before.changedAt) return;
    entry.picture = picture;
    for (const watcher of entry.watchers) watcher.callback(picture);
    // Whoever shows it has the new one by now.
    if (before.url && before.url !== picture.url) URL.revokeObjectURL(before.url);
  }
}

/** @type {Thumbnails|null} */
let ofThisPage = null;

/** The page's own feed, begun at first use. */
export const thumbnails = () => (ofThisPage ??= new Thumbnails());
