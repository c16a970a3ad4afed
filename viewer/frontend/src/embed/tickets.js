// What lets a page of another origin see one desktop: tickets, each good for one stream, and for reading in its time.

import { Problem } from "../api.js";

// The API takes a browser's ticket for 30 s at most; it must arrive within them.
const FRESH_MS = 20_000;

/** @typedef {{ticket: string, role?: "watch"|"control"}} Given the API's answer to whoever made the ticket, or its text alone */

export class Tickets {
  /** @type {((sessionId: string) => Promise<string|Given>)|null} asks the page's own server for another one */
  getTicket = null;
  /** What the newest one is for. @type {"watch"|"control"} */
  role = "watch";
  #text = "";
  #since = 0;
  #isUsed = false;
  #asked = null;

  /** @param {string} sessionId */
  constructor(sessionId) {
    this.sessionId = sessionId;
  }

  /** @param {string|Given} given */
  take(given) {
    const { ticket, role = "watch" } = typeof given === "string" ? { ticket: given } : (given ?? {});
    if (typeof ticket !== "string" || !ticket) throw new Problem(0, "This page got something else than a ticket for this desktop.");
    this.#text = ticket.trim();
    this.role = role;
    this.#since = Date.now();
    this.#isUsed = false;
    return this.#text;
  }

  /** One to read with. Throws a Problem. */
  async forReading() {
    return this.#isFresh || !this.getTicket ? this.#own() : this.#renew();
  }

  /** One that has opened no stream yet. Throws a Problem. */
  async forStream() {
    const text = (this.#isFresh && !this.#isUsed) || !this.getTicket ? this.#own() : await this.#renew();
    this.#isUsed = true;
    return text;
  }

  /** The API does not take that one. @returns {boolean} is another one to be had? */
  refused(text) {
    if (text === this.#text) this.#since = 0;
    return this.getTicket !== null;
  }

  get #isFresh() {
    return this.#text !== "" && Date.now() - this.#since < FRESH_MS;
  }

  #own() {
    if (!this.#text) throw new Problem(0, "This page has no ticket for this desktop yet.");
    return this.#text;
  }

  /** Whoever wants one at the same time waits for the same one. */
  #renew() {
    this.#asked ??= this.#ask().finally(() => (this.#asked = null));
    return this.#asked;
  }

  async #ask() {
    let given;
    try {
      given = await this.getTicket(this.sessionId);
    } catch (error) {
      throw new Problem(0, `This page got no ticket for this desktop${error?.message ? `: ${error.message}` : "."}`);
    }
    return this.take(given);
  }
}
