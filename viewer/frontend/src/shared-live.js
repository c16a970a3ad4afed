// One shared session as it is now, for a visitor: he is told by asking, and of nothing but this one.

import { Problem, call } from "./api.js";

// While the picture comes all is well; what ends it is told by the stream itself, and then asked for at once.
const EVERY_MS = 10_000;
const WAITING_MS = 3000;
const OVER = new Set([401, 404, 410]);

/** Speaks as a `Live` does, and fires `over` (detail: the Problem) once, when the link lets nobody watch any more. */
export class SharedLive extends EventTarget {
  sessions = new Map();
  #id;
  #timer = 0;
  #isOver = false;

  /** @param {string} id of the session */
  constructor(id) {
    super();
    this.#id = id;
  }

  start() {
    addEventListener("online", () => this.#tell("stale"));
    document.addEventListener("visibilitychange", () => document.hidden || this.#tell("stale"));
    addEventListener("pageshow", (event) => event.persisted && this.#tell("stale"));
    this.#later(EVERY_MS);
  }

  async get(id) {
    return this.sessions.get(id) ?? this.ask(id);
  }

  async ask(id) {
    let session;
    try {
      session = await call("GET", `/api/v1/shared/${encodeURIComponent(id)}`);
    } catch (problem) {
      if (!OVER.has(problem.status)) throw problem;
      this.#end(problem);
      // Whoever asked is gone from the page by now.
      return new Promise(() => {});
    }
    return this.accept(session);
  }

  accept(session) {
    this.sessions.set(session.id, session);
    this.#tell("change", session);
    return session;
  }

  #later(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), wait);
  }

  async #look() {
    if (this.#isOver) return;
    try {
      if (!document.hidden) await this.ask(this.#id);
    } catch {
      // It is asked again below; the stream says if the picture is gone.
    }
    this.#later(this.sessions.get(this.#id)?.status === "running" ? EVERY_MS : WAITING_MS);
  }

  #end(problem) {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#tell("over", problem instanceof Problem ? problem : null);
  }

  #tell(kind, detail = null) {
    if (kind === "over" || !this.#isOver) this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
