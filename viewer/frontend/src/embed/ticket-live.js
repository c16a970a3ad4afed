// One session as it is now, for a page of another origin: read by a ticket, and kept true by the session's own events.

import { isOver } from "../session.js";

const BACK_OFF_MS = [500, 1000, 2000, 4000, 8000];
// A heartbeat comes every 15 s.
const SILENT_AFTER_MS = 45_000;

/** Speaks as a `Live` does. */
export class TicketLive extends EventTarget {
  sessions = new Map();
  /** @type {"connecting"|"live"|"reconnecting"} */
  state = "connecting";
  #id;
  #connection;
  #stream = null;
  #lastEventId = "";
  #failures = 0;
  #timer = 0;

  /** @param {string} id of the session @param {ReturnType<import("./connection.js").foreignConnection>} connection */
  constructor(id, connection) {
    super();
    this.#id = id;
    this.#connection = connection;
  }

  start() {
    if (!this.#stream) this.#follow();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#stream?.abort();
    this.#stream = null;
  }

  async get(id) {
    return this.sessions.get(id) ?? this.ask(id);
  }

  async ask(id) {
    return this.accept(await this.#connection.call("GET", this.#path(id)));
  }

  /** Take in what an answer or event says, unless something newer is known. */
  accept(session) {
    const known = this.sessions.get(session.id);
    if (known && Date.parse(known.updated_at) > Date.parse(session.updated_at)) return known;
    // What leads to pages of the viewer asks for a sign-in there, which visitors of this page need not have.
    const taken = { ...session, page_url: null, novnc_url: null, devtools_url: null };
    this.sessions.set(taken.id, taken);
    this.#tell("change", taken);
    if (isOver(taken)) this.stop();
    return taken;
  }

  #path(id) {
    return `/api/v1/sessions/${encodeURIComponent(id)}`;
  }

  async #follow() {
    const stream = (this.#stream = new AbortController());
    try {
      const headers = { Accept: "text/event-stream", ...(this.#lastEventId && { "Last-Event-ID": this.#lastEventId }) };
      const answer = await this.#connection.read(`${this.#path(this.#id)}/events`, { headers, signal: stream.signal });
      const wasBroken = this.state === "reconnecting";
      this.#setState("live");
      if (wasBroken) this.#tell("stale", null);
      await this.#listen(answer.body, stream);
    } catch {
      // The session itself is asked for below, and says what is wrong.
    }
    if (this.#stream !== stream) return;
    this.#setState("reconnecting");
    this.#timer = setTimeout(() => this.#again(), BACK_OFF_MS[Math.min(this.#failures++, BACK_OFF_MS.length - 1)]);
  }

  #again() {
    this.#tell("stale", null);
    this.#follow();
  }

  /** @param {ReadableStream<Uint8Array>} body @param {AbortController} stream */
  async #listen(body, stream) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const silence = setTimeout(() => stream.abort(), SILENT_AFTER_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(silence));
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) this.#hear(block);
    }
  }

  #hear(block) {
    const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
    if (fields.id) this.#lastEventId = fields.id;
    this.#failures = 0;
    if (fields.event === "session") this.accept(JSON.parse(fields.data));
    else if (fields.event === "lease") this.#tell("lease", JSON.parse(fields.data));
    else if (fields.event === "reset") this.#missed();
  }

  #missed() {
    this.#tell("lease", null);
    this.#tell("stale", null);
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
