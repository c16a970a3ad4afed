// One desktop's stream in one element: noVNC's RFB over our WebSocket, with the reason when it ends.

import RFB from "@novnc/novnc";
import { Meter } from "./meter.js";
import { Panning } from "./panning.js";

// The relay's word for what it did not understand. By itself, because what two files share becomes a third.
const NOT_UNDERSTOOD = 4400;
const RESIZE_PATIENCE_MS = 2500;

/**
 * Fires `connected`, `painted`, `clipboard` (detail: text), `notresized` (the desktop did not take the size that was asked
 * for) and `ended` (detail: {code, reason}), the last once.
 */
export class Stream extends EventTarget {
  #rfb;
  #socket;
  #stage;
  #panning;
  #mode = "fit";
  #resizeTimer = 0;
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
    this.#panning = new Panning(stage, () => stage.firstElementChild);
    this.#rfb.addEventListener("connect", () => this.#connected());
    this.#rfb.addEventListener("securityfailure", (event) => this.#closed(NOT_UNDERSTOOD, event.detail.reason ?? ""));
    this.#rfb.addEventListener("disconnect", () => this.#closed(1006, ""));
    this.#rfb.addEventListener("clipboard", (event) => this.#tell("clipboard", event.detail.text));
  }

  /** Whether what is typed and clicked here goes to the desktop; the relay sees to it, whatever is set here. */
  set viewOnly(viewOnly) {
    if (this.#rfb.viewOnly === viewOnly) return;
    // Before it stops listening, so that nothing stays held.
    if (viewOnly) this.releaseKeys();
    this.#rfb.viewOnly = viewOnly;
    this.#applyMode();
  }

  /** @param {"fit"|"actual"|"match"} mode scaled into its place; pixel for pixel; or the desktop itself takes the size of its place */
  set mode(mode) {
    this.#mode = mode;
    this.#applyMode();
  }

  /** Whether dragging moves a picture that is larger than its place, where it would move something on the desktop. */
  set isDragged(isDragged) {
    this.#dragged = isDragged;
    this.#applyMode();
  }

  #dragged = false;

  #applyMode() {
    this.#stage.dataset.mode = this.#mode;
    this.#rfb.scaleViewport = this.#mode !== "actual";
    this.#panning.isOn = this.#mode === "actual" && (this.#rfb.viewOnly || this.#dragged);
    this.#stage.dataset.pans = String(this.#panning.isOn);
    const wasMatching = this.#rfb.resizeSession;
    this.#rfb.resizeSession = this.#mode === "match" && !this.#rfb.viewOnly;
    if (this.#rfb.resizeSession && !wasMatching) this.#expectSize();
  }

  /** noVNC tells nobody when a server refuses; the size it has then does. */
  #expectSize() {
    clearTimeout(this.#resizeTimer);
    this.#resizeTimer = setTimeout(() => {
      const canvas = this.#stage.querySelector("canvas");
      const isAsWide = canvas && Math.abs(canvas.width - this.#stage.clientWidth) <= 8 && Math.abs(canvas.height - this.#stage.clientHeight) <= 8;
      if (!isAsWide && this.#rfb.resizeSession && !this.#ended) this.#tell("notresized");
    }, RESIZE_PATIENCE_MS);
  }

  sendKey(keysym, code, down) {
    this.#rfb.sendKey(keysym, code, down);
  }

  /** Count what comes, until it is told to `stop`. */
  measure() {
    return new Meter(this.#stage.querySelector("canvas"), this.#socket);
  }

  /** The present picture as PNG; null when there is none. @returns {Promise<Blob|null>} */
  picture() {
    const canvas = this.#stage.querySelector("canvas");
    return new Promise((resolve) => (canvas?.width ? canvas.toBlob(resolve) : resolve(null)));
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
