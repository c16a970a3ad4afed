// What stands over the screen while there is no picture: what is going on, since when, and what can be done.

import { serverNow } from "../api.js";
import { element, icon, setText } from "../dom.js";
import * as icons from "../icons.js";
import { ago, duration, hostIsLost, inWords, isEnding, isQueued, placeInLine } from "../session.js";

/**
 * @typedef {object} Shown
 * @property {string} id of the session that is wanted, "" for none
 * @property {import("../session.js").Session|null} session
 * @property {import("../api.js").Problem|null} problem why there is no session
 * @property {import("./link.js").Link} link
 *
 * @typedef {{icon?: object, heading: string, text?: string, clock?: () => string, action?: string, tab?: boolean, busy?: boolean, tone?: string}} Words
 */

export class Cover {
  #shown = "";
  #clock = null;

  /** @param {() => void} tryAgain */
  constructor(tryAgain) {
    this.icon = element("div", { class: "cover-icon" });
    this.heading = element("p", { class: "cover-heading" });
    this.text = element("p", { class: "cover-text", dir: "auto" });
    this.clock = element("p", { class: "cover-clock", "aria-live": "off" });
    this.action = element("button", { type: "button", class: "button", hidden: true });
    this.tab = element("a", { class: "button", target: "_blank", rel: "noopener", hidden: true }, "Open in a tab");
    this.why = element("a", { class: "button plain", hidden: true }, "Find out why");
    this.action.addEventListener("click", tryAgain);
    this.node = element("div", { class: "viewer-cover", role: "status" },
      this.icon, this.heading, this.text, this.clock, element("div", { class: "cover-actions" }, this.action, this.tab, this.why));
  }

  /** @param {Shown} shown @param {{over: boolean, tabAddress: string, whyAddress: string}} place over: the last frame is below it; whyAddress: of the diagnosis, "" for none. @returns {boolean} is anything covered? */
  show(shown, { over, tabAddress, whyAddress }) {
    const words = wordsFor(shown);
    this.node.hidden = !words;
    this.#clock = words?.clock ?? null;
    if (!words) return false;
    this.node.dataset.busy = String(Boolean(words.busy));
    this.node.dataset.tone = words.tone ?? "quiet";
    this.node.dataset.over = String(over);
    const look = words.busy ? "busy" : words.icon;
    if (this.#shown !== look) {
      this.icon.replaceChildren(words.busy ? element("span", { class: "spinner" }) : icon(words.icon));
      this.#shown = look;
    }
    setText(this.heading, words.heading);
    setText(this.text, words.text ?? "");
    this.action.hidden = !words.action;
    setText(this.action, words.action ?? "");
    this.tab.hidden = !words.tab;
    this.tab.href = tabAddress;
    this.why.hidden = !whyAddress || words.busy || (words.tone !== "bad" && shown.link.state !== "waiting");
    this.why.href = whyAddress;
    return true;
  }

  tick() {
    if (this.#clock || this.clock.textContent) setText(this.clock, this.#clock?.() ?? "");
  }
}

/** @param {Shown} shown @returns {Words|null} null: there is a picture to see */
function wordsFor({ id, session, problem, link }) {
  if (!id) return { icon: icons.screen, heading: "No desktop selected", text: "Choose one from the list, or start a new one." };
  if (problem) return forProblem(problem, link);
  if (!session) return { heading: "Loading…", busy: true };
  if (isEnding(session) && link.state !== "connected") return { busy: true, heading: "Terminating…", text: hostIsLost(session) ? "The host does not answer. The desktop ends as soon as it does." : "" };
  if (session.status === "creating") return forCreating(session);
  if (session.status === "error") return { icon: icons.warning, tone: "bad", heading: "This desktop failed", text: session.error_message || inWords(session.status_reason) || "No reason was given." };
  if (session.status === "terminated") return forTerminated(session);
  if (session.status === "paused") return { icon: icons.moon, heading: "This desktop is paused", text: inWords(session.status_reason) };
  if (session.display === "none") return { icon: icons.screen, heading: "No screen to show", text: "This sandbox has no display." };
  return forLink(link);
}

function forProblem(problem, link) {
  if (problem.status === 404) return { icon: icons.screen, heading: "There is no such desktop", text: "It may have been removed, or it belongs to somebody else." };
  return { icon: icons.plug, heading: "Not reachable", text: problem.message, clock: () => retryText(link), action: "Try now" };
}

function forCreating(session) {
  const clock = () => elapsed(session);
  if (isQueued(session)) return { busy: true, heading: "Waiting in line", text: placeInLine(session.queue_position), clock };
  const text = [inWords(session.status_reason) || "Starting the desktop", hostIsLost(session) ? "The host does not answer." : ""].filter(Boolean).join(". ");
  return { busy: true, heading: "Creating your desktop", text, clock };
}

function forTerminated(session) {
  const ended = Date.parse(session.terminated_at ?? session.updated_at);
  const reason = session.status_reason && session.status_reason !== "terminated" ? inWords(session.status_reason) : "";
  return { icon: icons.moon, heading: "The desktop has ended", text: reason, clock: () => ago(serverNow() - ended) };
}

function forLink(link) {
  if (link.state === "connected") return null;
  if (link.state === "refused") return { icon: icons.warning, tone: "bad", heading: link.reason, text: link.advice, action: "Try again", tab: link.isBlocked };
  if (link.state === "waiting") return { icon: icons.plug, heading: link.reason, clock: () => retryText(link), action: "Try now" };
  return { busy: true, heading: link.attempts > 0 ? "Reconnecting…" : "Connecting…" };
}

function retryText(link) {
  if (!navigator.onLine) return "This browser is offline.";
  const left = Math.ceil((link.retryAt - Date.now()) / 1000);
  return left > 0 ? `Reconnecting in ${left} s…` : "Reconnecting…";
}

/** How long it has been in the making. @param {import("../session.js").Session} session */
export const elapsed = (session) => duration(serverNow() - Date.parse(session.created_at));
