// One desktop's stream in one element: noVNC's RFB over our WebSocket, with the reason when it ends.

import RFB from "@novnc/novnc";
import { CLOSE } from "../session.js";

/** Fires `connected`, `painted`, `clipboard` (detail: text) and `ended` (detail: {code, reason}), the last once. */
export class Stream extends EventTarget {
  #rfb;
  #socket;
  #stage;
  #ended = false;

  /**
   * @param {HTMLElement} stage empty element to draw in @param {string} sessionId
   * @param {{connection: import("./connection.js").Connection, shared?: boolean}} options shared: by a share link,
   *   watched in the name of that, whoever is signed in here
   */
  constructor(stage, sessionId, { connection, shared = false }) {
    super();
    this.#stage = stage;
    // Our own socket rather than an address: noVNC's `disconnect` says neither code nor reason, the socket does.
    this.#socket = connection.openStream(sessionId, { shared });
    this.#socket.addEventListener("close", (event) => this.#closed(event.code, event.reason));
    this.#rfb = new RFB(stage, this.#socket, { shared: true, wsProtocols: ["binary"] });
    this.#rfb.scaleViewport = true;
    this.#rfb.focusOnClick = true;
    this.#rfb.viewOnly = shared;
    this.#rfb.background = "transparent";
    this.#rfb.addEventListener("connect", () => this.#connected());
    this.#rfb.addEventListener("securityfailure", (event) => this.#closed(CLOSE.protocol, event.detail.reason ?? ""));
    this.#rfb.addEventListener("disconnect", () => this.#closed(1006, ""));
    this.#rfb.addEventListener("clipboard", (event) => this.#tell("clipboard", event.detail.text));
  }

  /** Whether what is typed and clicked here goes to the desktop; the relay sees to it, whatever is set here. */
  set viewOnly(viewOnly) {
    if (this.#rfb.viewOnly === viewOnly) return;
    // Before it stops listening, so that nothing stays held.
    if (viewOnly) this.releaseKeys();
    this.#rfb.viewOnly = viewOnly;
  }

  focus() {
    this.#rfb.focus({ preventScroll: true });
  }

  paste(text) {
    this.#rfb.clipboardPasteFrom(text);
  }

  /** Let go of every key that the desktop believes is held. */
  releaseKeys() {
    // noVNC releases them when the window loses focus; focus that moves inside the page is the same to a desktop.
    window.dispatchEvent(new Event("blur"));
  }

  /** Draw the present picture into `canvas`; false when there is none yet. */
  copyTo(canvas) {
    const picture = this.#stage.querySelector("canvas");
    if (!picture || picture.width === 0 || picture.height === 0) return false;
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return true;
  }

  /** End it from here: no `ended` follows. */
  close() {
    this.#ended = true;
    this.#rfb.disconnect();
    this.#stage.replaceChildren();
  }

  #connected() {
    const canvas = this.#stage.querySelector("canvas");
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Desktop screen. Control, Alt and Home together give the keyboard back to the page.");
    canvas.tabIndex = 0;
    this.#tell("connected");
    // The first message after ServerInit is the first picture.
    this.#socket.addEventListener("message", () => requestAnimationFrame(() => requestAnimationFrame(() => this.#tell("painted"))), { once: true });
  }

  #closed(code, reason) {
    if (this.#ended) return;
    this.#ended = true;
    this.#tell("ended", { code, reason });
    this.#rfb.disconnect();
    this.#stage.replaceChildren();
  }

  #tell(kind, detail = null) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
