// The state of one viewer's stream: when it is opened, why it ended, and when to try again.

import { NOT_LOADED } from "../dom.js";
import { CLOSE, inWords } from "../session.js";

const BACK_OFF_S = [0.5, 1, 2, 3, 5, 8, 10];
const STEADY_AFTER_MS = 10_000;

/**
 * @typedef {object} Ways what a link needs of the element it serves
 * @property {(session: import("../session.js").Session) => Promise<EventTarget>} open a new stream; rejects when its code could not be loaded
 * @property {() => Promise<unknown>} ask what has become of the session; throws a Problem
 * @property {() => void} askAgain the session is to be read anew, whatever comes of it
 * @property {() => boolean} canSignIn not by a share link, nor on a page of another origin
 */

/**
 * Fires `change`, `connected`, `painted`, `clipboard` (detail: text), `cut` (the stream is still there to be copied),
 * `leaselost` (detail: reason), and `gone` (detail: the Problem that says so).
 */
export class Link extends EventTarget {
  /** @type {"idle"|"connecting"|"connected"|"waiting"|"refused"} */
  state = "idle";
  reason = "";
  /** What to do about it where trying again is not all. */
  advice = "";
  /** A tab of its own would show it. */
  isBlocked = false;
  stream = null;
  /** How the open stream shows the desktop: `display` of its session then. */
  shownAs = "";
  attempts = 0;
  retryAt = 0;
  connectedAt = 0;
  /** @type {Ways} */
  #ways;
  #id = "";
  #retryTimer = 0;
  #steadyTimer = 0;

  /** @param {Ways} ways */
  constructor(ways) {
    super();
    this.#ways = ways;
  }

  /** @param {import("../session.js").Session} session */
  async connect(session) {
    clearTimeout(this.#retryTimer);
    this.#id = session.id;
    this.#become("connecting");
    let stream;
    const isWanted = () => this.state === "connecting" && this.#id === session.id && !this.stream;
    try {
      stream = await this.#ways.open(session, isWanted);
    } catch {
      return this.refuse(NOT_LOADED);
    }
    if (!stream) return;
    this.stream = stream;
    this.shownAs = session.display;
    stream.addEventListener("connected", () => this.#connected());
    stream.addEventListener("painted", () => stream === this.stream && this.#tell("painted"));
    stream.addEventListener("clipboard", (event) => this.#tell("clipboard", event.detail));
    stream.addEventListener("ended", (event) => this.#ended(event.detail));
  }

  /** End it from here. */
  drop() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#steadyTimer);
    if (this.stream) this.#tell("cut");
    this.stream?.close();
    this.stream = null;
    this.state = "idle";
    this.reason = this.advice = "";
    this.isBlocked = false;
  }

  retryLater(reason) {
    clearTimeout(this.#retryTimer);
    const base = BACK_OFF_S[Math.min(this.attempts++, BACK_OFF_S.length - 1)];
    // Spread out: twenty pages that lost one relay must not all come back at the same moment.
    const wait = base * 1000 * (0.85 + Math.random() * 0.3);
    this.retryAt = Date.now() + wait;
    this.#retryTimer = setTimeout(() => this.retry(), wait);
    this.#become("waiting", reason);
  }

  /** Try now. */
  retry() {
    clearTimeout(this.#retryTimer);
    this.state = "idle";
    this.#ways.askAgain();
  }

  refuse(reason, advice = "") {
    this.advice = advice;
    this.#become("refused", reason);
  }

  #connected() {
    this.connectedAt = Date.now();
    this.#steadyTimer = setTimeout(() => (this.attempts = 0), STEADY_AFTER_MS);
    this.#become("connected");
    this.#tell("connected");
  }

  async #ended({ code, reason, problem, blocked }) {
    clearTimeout(this.#steadyTimer);
    this.#tell("cut");
    this.stream = null;
    const id = this.#id;
    this.retryAt = 0;
    const why = this.shownAs === "kasmvnc" && !code ? reason : streamReason(code, reason);
    // He may go on watching, at once, and over the picture that he had.
    if (code === CLOSE.leaseLost) return this.#tell("leaselost", reason);
    this.#become("waiting", why);
    if (code === CLOSE.revoked) this.refuse(why, reason.startsWith("the role") ? "Reload the page to see what you may do now." : "");
    // Before the page asks anything and is led to the sign-in page: first say what has happened.
    // A visitor's page asks what became of his link, and says that; one of another origin gets another ticket.
    if (code === CLOSE.signedOut && this.#ways.canSignIn()) return this.refuse(why, reason.startsWith("the share") ? "" : "Sign in again to go on.");
    // Each try of such a desktop loads its whole page and needs a ticket: not until somebody asks for it.
    if (code === CLOSE.busy && this.shownAs === "kasmvnc") this.refuse(why);
    if (problem?.status === 409) this.refuse("This desktop's page cannot be shown", reason);
    if (blocked) this.#refuseFrame(reason);
    // noVNC and a refused handshake say nothing of the cause; the session's row knows.
    try {
      await this.#ways.ask();
    } catch (problem) {
      if (this.#id === id && (problem.status === 401 || problem.status === 404)) {
        this.state = "idle";
        return this.#tell("gone", problem);
      }
    }
    if (this.#id === id && this.state === "waiting") this.retryLater(this.reason);
  }

  #refuseFrame(reason) {
    this.isBlocked = true;
    this.refuse(reason, "In a tab of its own the desktop can be shown.");
  }

  #become(state, reason = "") {
    this.state = state;
    this.reason = reason;
    if (state !== "refused") this.advice = "";
    this.#tell("change");
  }

  #tell(kind, detail = null) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

function streamReason(code, reason) {
  if (code === CLOSE.gone) return "The desktop closed its screen";
  if (code === CLOSE.signedOut) return inWords(reason) || "This browser is no longer signed in";
  if (code === CLOSE.revoked && reason.startsWith("the role")) return "Your role has changed";
  if (code === CLOSE.revoked && reason.startsWith("closed by")) return inWords(reason);
  if (code === CLOSE.revoked) return "Your access to this desktop was withdrawn";
  if (code === CLOSE.ended) return "The desktop has ended";
  if (code === CLOSE.unsupervised) return "The fleet's control plane has been silent for too long";
  if (code === CLOSE.unreachable) return "The desktop's screen does not answer";
  if (code === CLOSE.timeLimit) return "This stream reached its time limit";
  if (code === CLOSE.busy) return "Too many people watch this desktop already";
  if (code === CLOSE.restarting) return "The relay is restarting";
  if (code === CLOSE.protocol) return reason ? `The desktop was not understood: ${reason}` : "The desktop was not understood";
  return "Connection lost";
}
