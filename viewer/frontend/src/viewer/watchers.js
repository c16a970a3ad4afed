// Who has this desktop open: "2 watching", and by a click their names.

import { element, setText } from "../dom.js";
import { ownPage } from "./connection.js";

/**
 * A quiet button; nothing while nobody else is there to be named, or nobody can say who is.
 * @typedef {{name: string, role: "watch"|"control", kind: string, opened_at: string}} StreamOf as in the API
 */
export class Watchers {
  connection = ownPage;
  element = element("button", { type: "button", class: "viewer-watchers", "data-fact": "watchers", "aria-haspopup": "dialog", hidden: true });
  /** @type {StreamOf[]} */
  streams = [];
  #session = "";
  #asked = 0;

  /** Another session is shown, or none (""). */
  follow(session) {
    if (session === this.#session) return;
    this.#session = session;
    this.#show([]);
  }

  /** Somebody came or went. */
  async refresh() {
    const asked = ++this.#asked;
    const session = this.#session;
    if (!session) return;
    let streams;
    try {
      streams = (await this.connection.call("GET", `/api/v1/sessions/${encodeURIComponent(session)}/streams`)).items;
    } catch {
      // The host is silent for a moment, or this browser is signed out: the stream itself says so.
      return;
    }
    if (asked === this.#asked && session === this.#session) this.#show(streams.filter((stream) => stream.kind !== "port"));
  }

  #show(streams) {
    this.streams = streams;
    const names = streams.map((stream) => `${stream.name}${stream.role === "control" ? "" : " (view only)"}`);
    this.element.hidden = streams.length === 0;
    this.element.title = names.join(", ");
    setText(this.element, streams.length ? `${streams.length} watching` : "");
    this.element.setAttribute("aria-label", streams.length ? `${streams.length} watching: ${names.join(", ")}` : "");
  }
}
