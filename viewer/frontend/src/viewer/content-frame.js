// A desktop whose screen is a web page of its own (KasmVNC's client), in a frame at an origin of its own.

import { ticketFrom, goThrough } from "../entering.js";

// What it may do is what such a client needs. It stays in its frame: no top navigation, no windows of its own.
const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-downloads allow-pointer-lock";
const FEATURES = ["fullscreen", "autoplay"];
// A watcher's clipboard is none of the desktop's business, whatever its page asks for.
const CONTROL_FEATURES = ["clipboard-read", "clipboard-write"];
const PATIENCE_MS = 20_000;
// There the relay tells why the stream ended; the client itself says only that it did.
const ENDED = "/deskfleet-ended";
const ENDED_PATIENCE_MS = 2000;
const CUT = "The desktop closed the connection";
const RESIZE = { fit: "scale", actual: "off", match: "remote" };
let frames = 0;

/**
 * Fires `connected`, `painted` and `ended`, the last once: the same words as a Stream. Detail of `ended`: {reason}, and
 * `code` (the relay's close code, where it is known), `problem` (what the viewer said instead of a ticket) or `blocked` (true: the cookie did not come back).
 */
export class ContentFrame extends EventTarget {
  #stage;
  #connection;
  #mode;
  #frame = null;
  #origin = "";
  #timer = 0;
  #ended = false;
  /** Has the client begun? Then the way in worked. */
  #spoke = false;
  #asksWhy = false;
  #onMessage = (event) => this.#heard(event);

  /** @param {HTMLElement} stage empty element @param {string} sessionId @param {{name: string, viewOnly: boolean, mode: "fit"|"actual"|"match", connection: import("./connection.js").Connection, shared?: boolean}} shown shared: by a share link */
  constructor(stage, sessionId, { name, viewOnly, mode, connection, shared = false }) {
    super();
    this.#connection = connection;
    this.#mode = mode;
    this.#stage = stage;
    addEventListener("message", this.#onMessage);
    this.#timer = setTimeout(() => this.#end("The desktop's own page does not answer"), PATIENCE_MS);
    this.#open(`/api/v1/${shared ? "shared" : "sessions"}/${encodeURIComponent(sessionId)}/entries`, name, viewOnly);
  }

  focus() {
    this.#frame?.focus({ preventScroll: true });
  }

  /** Its own server sees to that, live. */
  set viewOnly(_viewOnly) {}

  /** The clipboard is the page's own affair. */
  paste() {}

  /** So are its keys: its window loses focus by itself. */
  releaseKeys() {}

  /** As it was opened: the client takes it from its address. */
  set mode(_mode) {}

  set isDragged(_isDragged) {}

  sendKey() {}

  /** Its client counts for itself. */
  measure() {
    return null;
  }

  picture() {
    return null;
  }

  /** A foreign page's picture cannot be copied. */
  copyTo() {
    return false;
  }

  /** End it from here: no `ended` follows. */
  close() {
    this.#ended = true;
    clearTimeout(this.#timer);
    removeEventListener("message", this.#onMessage);
    this.#stage.replaceChildren();
  }

  async #open(entries, name, viewOnly) {
    let entry;
    try {
      entry = await ticketFrom(entries, undefined, this.#connection);
    } catch (problem) {
      return this.#end(problem.message, { problem });
    }
    if (this.#ended) return;
    this.#origin = new URL(entry.url).origin;
    this.#frame = this.#newFrame(name, viewOnly);
    this.#stage.replaceChildren(this.#frame);
    goThrough(entry, { next: clientAddress(viewOnly, this.#mode), target: this.#frame.name, within: this.#stage });
  }

  #newFrame(name, viewOnly) {
    const frame = document.createElement("iframe");
    frame.name = `desktop-${++frames}`;
    frame.title = `Screen of ${name}`;
    frame.setAttribute("sandbox", SANDBOX);
    // By name: a frame that a form leads on has no address of its own that "its origin" could mean.
    const features = viewOnly ? FEATURES : [...FEATURES, ...CONTROL_FEATURES];
    frame.allow = features.map((feature) => `${feature} ${this.#origin}`).join("; ");
    return frame;
  }

  #heard(event) {
    // Any window can send messages; only this frame's, and only while it is where it was led to, speaks of the desktop.
    if (!this.#frame || event.source !== this.#frame.contentWindow || event.origin !== this.#origin) return;
    const { action, value } = event.data ?? {};
    if (action === "deskfleet_closed") return this.#closed();
    if (action === "deskfleet_ended") return this.#end(CUT, { code: value });
    if (action === "idle_session_timeout") return this.#end("The desktop was left alone for long");
    if (action !== "connection_state") return;
    this.#spoke = true;
    if (value === "connected") this.#connected();
    if (value === "disconnected") this.#askWhy();
  }

  #askWhy() {
    if (this.#asksWhy) return;
    this.#asksWhy = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#end(CUT), ENDED_PATIENCE_MS);
    // In place of the client: no step for the "back" button.
    this.#frame.contentWindow.location.replace(`${this.#origin}${ENDED}`);
  }

  #closed() {
    if (this.#spoke) return this.#end("This way in is over");
    this.#end("This browser keeps no cookie for the desktop in a frame", { blocked: true });
  }

  #connected() {
    clearTimeout(this.#timer);
    this.#tell("connected");
    this.#tell("painted");
  }

  #end(reason, more = {}) {
    if (this.#ended) return;
    this.close();
    this.#tell("ended", { reason, ...more });
  }

  #tell(kind, detail = null) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

/**
 * KasmVNC's parameters. In a frame it hides its bar and turns clipboard, WebP and scaling off, unless `show_control_bar`
 * is there with any value. Coming back after a cut is ours, because each stream needs a way in.
 */
function clientAddress(viewOnly, mode) {
  const wanted = { autoconnect: "true", reconnect: "false", resize: RESIZE[mode], idle_disconnect: "720" };
  Object.assign(wanted, viewOnly ? { view_only: "true", enable_webp: "true" } : { show_control_bar: "true", clipboard_seamless: "true" });
  return `/?${new URLSearchParams(wanted)}`;
}
