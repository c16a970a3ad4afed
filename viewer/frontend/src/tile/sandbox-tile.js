// <sandbox-tile session="…">: a still of one desktop that is live at about a picture a second, with its name, its status and
// what it needs. Its style is `styles/tile.css`.
//
// The page sets `.live` (a Live), and `.feed` where it has a feed of pictures of its own. Fires `open` on a click or Enter (it
// bubbles; detail: the session's id), and `picture` when that is another one (detail: the Picture). A page's own small buttons go
// into `.actions`.

import { serverNow } from "../api.js";
import { attentionOf } from "../attention.js";
import { badge, element, icon, setText } from "../dom.js";
import * as icons from "../icons.js";
import { duration, exactly, inWords, isOver, isQueued, nameOf, placeInLine, shortId } from "../session.js";
import { thumbnails } from "../thumbnails.js";

const TICK_MS = 1000;
/** A screen that has been the same for so long is said to be. */
const STILL_AFTER_MS = 60_000;

const COVER_ICONS = { moon: icons.moon, plug: icons.plug, screen: icons.screen, warning: icons.warning };

/** @type {Set<SandboxTile>} */
const shown = new Set();
let ticker = 0;

class SandboxTile extends HTMLElement {
  static observedAttributes = ["session"];

  #live = null;
  #feed = null;
  #session = null;
  /** @type {import("../thumbnails.js").Picture|null} */
  #picture = null;
  #parts = null;
  #watching = null;
  #drawn = "";
  #onChange = (event) => (event.detail === null || event.detail.id === this.sessionId) && this.#look();

  get sessionId() {
    return this.getAttribute("session") ?? "";
  }

  /** @returns {import("../session.js").Session|null} */
  get session() {
    return this.#session;
  }

  get picture() {
    return this.#picture;
  }

  /** Where a page puts its own small buttons. */
  get actions() {
    this.#build();
    return this.#parts.actions;
  }

  /** The button that opens it, for whoever moves the focus. */
  get button() {
    this.#build();
    return this.#parts.open;
  }

  set live(live) {
    this.#live?.removeEventListener("change", this.#onChange);
    this.#live = live;
    if (this.isConnected) this.#follow();
  }

  set feed(feed) {
    this.#feed = feed;
    if (this.isConnected) this.#watchAnew();
  }

  connectedCallback() {
    this.#build();
    shown.add(this);
    ticker ||= setInterval(tickAll, TICK_MS);
    this.#follow();
  }

  disconnectedCallback() {
    // A tile that is only put elsewhere goes on as it was.
    queueMicrotask(() => this.isConnected || this.#leave());
  }

  attributeChangedCallback(_name, before, now) {
    if (before === now || !this.isConnected) return;
    this.#session = this.#picture = null;
    this.#watchAnew();
    this.#look();
  }

  #leave() {
    shown.delete(this);
    if (shown.size === 0) {
      clearInterval(ticker);
      ticker = 0;
    }
    this.#live?.removeEventListener("change", this.#onChange);
    this.#unwatch();
  }

  #follow() {
    this.#live?.removeEventListener("change", this.#onChange);
    this.#live?.addEventListener("change", this.#onChange);
    this.#look();
  }

  #look() {
    this.#session = this.#live?.sessions.get(this.sessionId) ?? null;
    if (!this.#watching) this.#watchAnew();
    else this.#watching.rest(!this.#hasPictures);
    this.tick();
  }

  /** What does not run is not asked for; its last picture stays. */
  get #hasPictures() {
    return !this.#session || (this.#session.status === "running" && this.#session.display !== "none");
  }

  #watchAnew() {
    this.#unwatch();
    this.#watching = (this.#feed ?? thumbnails()).watch(this.sessionId, (picture) => this.#took(picture), this);
    this.#watching.rest(!this.#hasPictures);
  }

  #unwatch() {
    this.#watching?.stop();
    this.#watching = null;
  }

  #took(picture) {
    this.#picture = picture;
    if (picture.url && this.#parts.image.src !== picture.url) this.#parts.image.src = picture.url;
    this.#parts.image.hidden = !picture.url;
    this.tick();
    this.dispatchEvent(new CustomEvent("picture", { detail: picture }));
  }

  // ---- how it looks -------------------------------------------------------------------------------------------

  #build() {
    if (this.#parts) return;
    const parts = (this.#parts = {
      open: element("button", { type: "button", class: "tile-open" }),
      image: element("img", { class: "tile-image", alt: "", draggable: "false", decoding: "async", hidden: true }),
      cover: element("span", { class: "tile-cover", hidden: true }),
      coverIcon: element("span", { class: "tile-cover-icon" }),
      coverText: element("span", { class: "tile-cover-text", dir: "auto" }),
      name: element("span", { class: "tile-name", dir: "auto" }),
      badge: element("span", { class: "tile-badge" }),
      work: element("span", { class: "tile-work", dir: "auto" }),
      why: element("span", { class: "tile-why", dir: "auto" }),
      actions: element("span", { class: "tile-actions" }),
    });
    parts.cover.append(parts.coverIcon, parts.coverText);
    parts.open.append(
      element("span", { class: "tile-screen" }, parts.image, parts.cover),
      element("span", { class: "tile-foot" }, element("span", { class: "tile-line" }, parts.name, parts.badge), element("span", { class: "tile-line" }, parts.work, parts.why)));
    parts.open.addEventListener("click", () => this.dispatchEvent(new CustomEvent("open", { bubbles: true, detail: this.sessionId })));
    this.append(parts.open, parts.actions);
  }

  /** Write what has changed by now; the elapsed times do by themselves. */
  tick() {
    if (!this.#parts) return;
    const now = serverNow();
    const look = this.#lookOf(now);
    const key = JSON.stringify(look);
    if (key === this.#drawn) return;
    this.#drawn = key;
    const parts = this.#parts;
    setText(parts.name, look.name);
    setText(parts.work, look.work);
    setText(parts.why, look.why);
    parts.why.title = look.title;
    if (look.badge && parts.badge.textContent !== look.badge.label) parts.badge.replaceChildren(badge(look.badge));
    if (!look.badge) parts.badge.replaceChildren();
    parts.cover.hidden = !look.cover;
    if (look.cover) {
      setText(parts.coverText, look.cover.text);
      if (parts.coverIcon.dataset.icon !== look.cover.icon) {
        parts.coverIcon.dataset.icon = look.cover.icon;
        parts.coverIcon.replaceChildren(look.cover.icon ? icon(COVER_ICONS[look.cover.icon]) : element("span", { class: "spinner" }));
      }
    }
    this.dataset.tone = look.badge?.tone ?? "quiet";
    this.dataset.rank = String(look.rank);
    this.dataset.old = String(Boolean(look.cover));
  }

  #lookOf(now) {
    const session = this.#session;
    if (!session) {
      const why = this.#picture?.why ?? "";
      return { name: shortId(this.sessionId), work: "", why: "", title: "", badge: null, rank: 9, cover: this.#coverOfPicture(why, "Loading…") };
    }
    const { tone, label, why, rank } = attentionOf(session, now);
    const still = this.#stillFor(session, now);
    return {
      name: nameOf(session),
      work: [session.task_id, session.agent_id].filter(Boolean).join(" · ") || session.host || "",
      why: why ? inWords(why) : still ? `Still for ${duration(still)}` : "",
      title: still ? `Its screen last changed ${exactly(this.#picture.changedAt)}` : why,
      badge: { tone, label },
      rank,
      cover: this.#coverFor(session, now),
    };
  }

  /** Milliseconds since its screen last changed; 0 while that is not long, or not known. */
  #stillFor(session, now) {
    const since = this.#picture?.changedAt ? now - Date.parse(this.#picture.changedAt) : 0;
    return session.status === "running" && since >= STILL_AFTER_MS ? since : 0;
  }

  #coverFor(session, now) {
    if (session.status === "creating") {
      const text = isQueued(session) ? placeInLine(session.queue_position) : inWords(session.status_reason) || "Starting";
      return { icon: "", text: `${text.replace(/\.$/, "")} · ${duration(now - Date.parse(session.created_at))}` };
    }
    if (session.status === "paused") return { icon: "moon", text: "Paused" };
    if (isOver(session)) return session.status === "error" ? { icon: "warning", text: session.error_message || "It failed" } : { icon: "moon", text: inWords(session.status_reason) || "It has ended" };
    if (session.display === "none") return { icon: "screen", text: "No screen" };
    return this.#coverOfPicture(this.#picture?.why ?? "", "");
  }

  /** Over a picture that is not as the desktop is now, and in the place of one that has not come. */
  #coverOfPicture(why, waiting) {
    if (why) return { icon: "plug", text: why };
    return this.#picture?.url ? null : { icon: "", text: waiting };
  }
}

function tickAll() {
  if (!document.hidden) for (const tile of shown) tile.tick();
}

customElements.define("sandbox-tile", SandboxTile);
