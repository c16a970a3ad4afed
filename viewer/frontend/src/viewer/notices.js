// Between bar and screen: what a person should know of the desktop that is shown, and the call of an agent for somebody.

import { element, icon, setText } from "../dom.js";
import * as icons from "../icons.js";
import { exactly, hostIsLost, isEnding, isOver } from "../session.js";
import { ownPage } from "./connection.js";

const NEWS_MS = 10_000;

export class Notices {
  connection = ownPage;
  #session = null;
  #newsTimer = 0;

  constructor() {
    this.notice = element("p", { class: "viewer-band viewer-notice", hidden: true });
    this.news = element("p", { class: "viewer-band viewer-news", role: "status", hidden: true });
    this.reason = element("span", { class: "help-reason", dir: "auto" });
    this.error = element("span", { class: "help-error", role: "alert" });
    this.done = element("button", { type: "button", class: "button small", "data-control": "help-done" }, "Done");
    this.help = element("section", { class: "viewer-band viewer-help", "aria-label": "Needs a person", hidden: true },
      icon(icons.help), element("p", { role: "status" }, element("strong", {}, "Needs a person"), " ", this.reason), this.error, this.done);
    this.done.addEventListener("click", () => this.#done());
    this.nodes = [this.help, this.notice, this.news];
  }

  /** @param {import("../session.js").Session|null} session @param {{connected: boolean, onlyWatches: boolean}} seen */
  show(session, { connected, onlyWatches }) {
    this.#session = session;
    const text = session ? noticeOf(session, connected) : "";
    setText(this.notice, text);
    this.notice.hidden = !text;
    const help = session && !isOver(session) ? session.help : null;
    this.help.hidden = !help;
    this.done.hidden = onlyWatches;
    setText(this.reason, help?.reason ?? "");
    this.help.title = help ? `Since ${exactly(help.asked_at)}` : "";
    if (!help) setText(this.error, "");
  }

  /** Say something once. */
  say(text) {
    clearTimeout(this.#newsTimer);
    setText(this.news, text);
    this.news.hidden = !text;
    if (text) this.#newsTimer = setTimeout(() => this.say(""), NEWS_MS);
  }

  async #done() {
    const session = this.#session;
    this.done.disabled = true;
    setText(this.error, "");
    try {
      const answer = await this.connection.call("DELETE", `/api/v1/sessions/${encodeURIComponent(session.id)}/help`);
      this.onanswer?.(answer, session.id);
    } catch (problem) {
      if (problem.status === 401) return this.connection.signedOut?.();
      setText(this.error, problem.message);
    } finally {
      this.done.disabled = false;
    }
  }
}

function noticeOf(session, connected) {
  if (isEnding(session) && connected) return "This desktop is being ended.";
  if (hostIsLost(session)) return `${session.host ? `Host ${session.host}` : "The host"} does not answer. The desktop may still be running there; what you see may be old.`;
  if (session.status === "running" && session.status_reason === "blank") return "The desktop is connected, but has drawn nothing on its screen yet.";
  return "";
}
