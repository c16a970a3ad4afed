// <sandbox-viewer session="…"> for pages of other origins: /embed/sandbox-viewer.js, as docs/embedding.md has it.
//
// Around our own element it puts a shadow root with our styles, and a connection that reads by tickets.

import "./inside.js";
import "../viewer/sandbox-viewer.js";
import { names } from "../viewer/names.js";
import { foreignConnection } from "./connection.js";
import { TicketLive } from "./ticket-live.js";
import { Tickets } from "./tickets.js";

const BASE = new URL(import.meta.url).origin;
/** What the page says of the element goes to the one inside. */
const PASSED_ON = ["compact", "fill", "note"];
// Constructed, so that the page's policy needs no `style-src` for us.
const sheet = new CSSStyleSheet();
// A text that the build puts here.
sheet.replaceSync(EMBED_STYLES);

/** Attributes: `session`, `ticket`, `compact`, `fill`, `note`, `data-theme`. Fires `sessionchange` (detail: the session). */
class EmbeddedViewer extends HTMLElement {
  static observedAttributes = ["session", "ticket", ...PASSED_ON];

  #root = this.attachShadow({ mode: "open" });
  /** @type {Tickets|null} */
  #tickets = null;
  /** @type {TicketLive|null} */
  #live = null;
  #viewer = null;
  #getTicket = null;

  constructor() {
    super();
    this.#root.adoptedStyleSheets = [sheet];
    // A page may have set it before this script was here.
    if (Object.hasOwn(this, "getTicket")) {
      const given = this.getTicket;
      delete this.getTicket;
      this.getTicket = given;
    }
  }

  /** Brings a ticket for the session of that id, from the page's own server: its text, or the API's whole answer. */
  get getTicket() {
    return this.#getTicket;
  }

  set getTicket(getTicket) {
    this.#getTicket = getTicket;
    if (!this.#tickets) return;
    this.#tickets.getTicket = getTicket;
    this.#viewer?.refresh();
  }

  connectedCallback() {
    this.#show();
  }

  disconnectedCallback() {
    this.#clear();
  }

  attributeChangedCallback(name, before, now) {
    if (before === now || !this.#viewer) return;
    if (name === "session") return this.#show();
    if (name === "ticket") return this.#ticketGiven(now);
    this.#passOn(name);
  }

  #show() {
    this.#clear();
    const session = this.getAttribute("session") ?? "";
    this.#tickets = new Tickets(session);
    this.#tickets.getTicket = this.#getTicket;
    if (this.getAttribute("ticket")) this.#tickets.take(this.getAttribute("ticket"));
    const connection = foreignConnection(BASE, this.#tickets);
    this.#live = new TicketLive(session, connection);
    const viewer = (this.#viewer = document.createElement(names.viewer));
    viewer.connection = connection;
    viewer.live = this.#live;
    viewer.setAttribute("session", session);
    for (const name of PASSED_ON) this.#passOn(name);
    viewer.addEventListener("sessionchange", ({ detail }) => this.dispatchEvent(new CustomEvent("sessionchange", { detail })));
    this.#root.append(viewer);
    if (session) this.#live.start();
  }

  #clear() {
    this.#live?.stop();
    this.#viewer?.remove();
    this.#live = this.#viewer = this.#tickets = null;
  }

  #ticketGiven(text) {
    if (!text) return;
    this.#tickets.take(text);
    this.#viewer.refresh();
  }

  #passOn(name) {
    if (this.hasAttribute(name)) this.#viewer.setAttribute(name, this.getAttribute(name));
    else this.#viewer.removeAttribute(name);
  }
}

if (!customElements.get("sandbox-viewer")) customElements.define("sandbox-viewer", EmbeddedViewer);
