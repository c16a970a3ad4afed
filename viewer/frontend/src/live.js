// The tenant's sessions as they are now: one list, kept true by the event stream.

import { call, getSession, goToSignIn, listActive, listFailed, listNewest, serverNow } from "./api.js";
import { isOver, isQueued } from "./session.js";

const BACK_OFF_MS = [500, 1000, 2000, 4000, 8000];
// Browsers open six connections to a plain-http site, for all tabs together; a tab nobody looks at gives its one back.
const HIDDEN_FOR_MS = 20_000;
const LIST_WITHOUT_STREAM_MS = 800;
/** Past this many nobody looks at each of them. */
export const MOST_LIVE = 2000;

/** @typedef {import("./session.js").Session} Session */

/**
 * Fires `change` (detail: the session, or null for "all of them"), `state`, `lease` (detail: who has keyboard and mouse of
 * some session since, or null: changes were missed), `watchers` (detail: {session_id, watching}), `document` (detail: {change, document}), and without a list `stale`: ask again.
 */
export class Live extends EventTarget {
  /** @type {Map<string, Session>} */
  sessions = new Map();
  /** @type {"connecting"|"live"|"reconnecting"|"offline"} */
  state = "connecting";
  /** @type {import("./api.js").Problem|null} why the first list has not come */
  problem = null;
  /** True once the list has been read. */
  loaded = false;

  #source = null;
  #failures = 0;
  #timer = 0;
  #listTimer = 0;
  #hiddenTimer = 0;
  #withList;
  #list;

  /**
   * @typedef {{items: Session[], isMissed: (session: Session) => boolean}} Listed isMissed: should it be among the items if it still is?
   * @param {{withList: boolean, list?: () => Promise<Listed>}} options the bare page follows one session and needs no list; list: what
   * to read instead of the newest ones and whatever lives
   */
  constructor({ withList, list }) {
    super();
    this.#withList = withList;
    this.#list = list ?? (() => this.#newestAndLive());
  }

  start() {
    addEventListener("online", () => this.#connect());
    addEventListener("offline", () => this.#setState("offline"));
    document.addEventListener("visibilitychange", () => this.#visibilityChanged());
    // Pages in the back-forward cache must not hold the stream.
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => event.persisted && this.#connect());
    this.#connect();
  }

  /** The session, from here or from the API; throws a Problem. */
  async get(id) {
    return this.sessions.get(id) ?? this.accept(await getSession(id));
  }

  /** Ask the API again, whatever is known here. */
  async ask(id) {
    return this.accept(await getSession(id));
  }

  /** Take in what any answer or event says of a session, unless something newer is known. */
  accept(session) {
    const taken = this.#take(session);
    this.#tell("change", taken);
    return taken;
  }

  /** The same for a page of a list, told as one change. @param {Session[]} sessions */
  acceptAll(sessions) {
    for (const session of sessions) this.#take(session);
    this.#tell("change", null);
  }

  #take(session) {
    const known = this.sessions.get(session.id);
    if (known && Date.parse(known.updated_at) > Date.parse(session.updated_at)) return known;
    // An event does not know the place in line; the one that an answer gave stands until the next answer.
    const place = isQueued(session) ? (session.queue_position ?? known?.queue_position ?? null) : null;
    const taken = { ...session, queue_position: place };
    this.sessions.set(taken.id, taken);
    return taken;
  }

  /** Keep no longer what nobody is shown: a page may be open for weeks. @param {(session: Session) => boolean} isUnneeded */
  forget(isUnneeded) {
    for (const [id, session] of this.sessions) if (isUnneeded(session)) this.sessions.delete(id);
  }

  /** Read the list again: what it has to be has changed. */
  readList() {
    return this.#synchronise();
  }

  #connect() {
    clearTimeout(this.#timer);
    clearTimeout(this.#listTimer);
    this.#close();
    const source = (this.#source = new EventSource("/api/v1/events"));
    source.addEventListener("open", () => source === this.#source && this.#opened());
    source.addEventListener("session", (event) => this.accept(JSON.parse(event.data)));
    source.addEventListener("lease", (event) => this.#tell("lease", JSON.parse(event.data)));
    source.addEventListener("watchers", (event) => this.#tell("watchers", JSON.parse(event.data)));
    source.addEventListener("document", (event) => this.#tell("document", JSON.parse(event.data)));
    source.addEventListener("reset", () => this.#missed());
    source.addEventListener("error", () => source === this.#source && this.#broke());
    // Read the list when the stream is open, so that no change falls between the two; but don't wait for ever.
    this.#listTimer = setTimeout(() => this.loaded || this.#synchronise(), LIST_WITHOUT_STREAM_MS);
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #opened() {
    clearTimeout(this.#listTimer);
    this.#failures = 0;
    this.#setState("live");
    this.#synchronise();
  }

  #missed() {
    this.#tell("lease", null);
    this.#synchronise();
  }

  #broke() {
    this.#setState(navigator.onLine ? "reconnecting" : "offline");
    // A server that refuses streams for now may still say what there is.
    if (!this.loaded) this.#synchronise();
    // CONNECTING: the browser comes back by itself with Last-Event-ID. CLOSED: a proxy answered for the server, begin anew.
    if (this.#source.readyState !== EventSource.CLOSED) return;
    const wait = BACK_OFF_MS[Math.min(this.#failures++, BACK_OFF_MS.length - 1)];
    this.#close();
    this.#timer = setTimeout(() => this.#connectIfSignedIn(), wait);
  }

  async #connectIfSignedIn() {
    try {
      await call("GET", "/api/v1/sessions?limit=1");
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
    }
    this.#connect();
  }

  async #synchronise() {
    if (!this.#withList) return this.#tell("stale", null);
    const asked = serverNow();
    try {
      const { items, isMissed } = await this.#list();
      this.#forgetMissed(items, isMissed, asked);
      this.loaded = true;
      this.problem = null;
      for (const session of items) this.#take(session);
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      this.problem = problem;
    }
    this.#tell("change", null);
  }

  /** The newest ones, and whatever lives or failed lately: a desktop of last week must not hide behind fifty short ones of today. */
  async #newestAndLive() {
    const [page, active, failed] = await Promise.all([listNewest(), listActive(MOST_LIVE), listFailed()]);
    const from = (list) => (list.next_cursor ? Date.parse(list.items.at(-1)?.created_at) : 0);
    const [newest, living] = [from(page), from(active)];
    const isMissed = (session) => Date.parse(session.created_at) > (isOver(session) ? newest : living);
    return { items: [...failed.items, ...active.items, ...page.items], isMissed };
  }

  /** What should be on the list and is not was purged, or ended while nobody told us. */
  #forgetMissed(items, isMissed, asked) {
    const listed = new Set(items.map((session) => session.id));
    for (const [id, session] of this.sessions) {
      // One made while the list was on its way isn't in it and is not gone.
      if (!listed.has(id) && isMissed(session) && Date.parse(session.created_at) < asked - 5000) this.sessions.delete(id);
    }
  }

  #visibilityChanged() {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) this.#hiddenTimer = setTimeout(() => this.#close(), HIDDEN_FOR_MS);
    else if (!this.#source) this.#connect();
  }

  #setState(state) {
    if (state === this.state) return;
    this.state = state;
    this.#tell("state", null);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
