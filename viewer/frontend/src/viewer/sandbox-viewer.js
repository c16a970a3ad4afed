// <sandbox-viewer session="…">: one desktop with its status and its controls.
//
// Attributes: `session` (id); how large: `compact` (300 px), none (500 px), `fill` (its container), `bare` (the window,
// without the row of facts); `back` (address of the list, for narrow screens); `shared` (watched by a share link); `note`
// (a word on the second line). The page sets `.live` (a Live) once, before or after the element is on the page; before
// that `.connection`, when the fleet is not the page's own. Fires `sessionchange` (detail: the session).

import "../common.js";
import { NOT_LOADED, badge, element, icon, setTag, setText } from "../dom.js";
import * as icons from "../icons.js";
import { backendOf, badgeOf, hostIsLost, inWords, isOver, isQueued, nameOf, screenOf, shortId } from "../session.js";
import { onlyWatches, ownPage } from "./connection.js";
import { ContentFrame } from "./content-frame.js";
import { Cover, elapsed } from "./cover.js";
import { Facts } from "./facts.js";
import { LastFrame, pictureOf } from "./last-frame.js";
import { LeaseBar } from "./lease-bar.js";
import { Link } from "./link.js";
import { names } from "./names.js";
import { Notices } from "./notices.js";
import { Tabs } from "./tabs.js";
import { Toolbar } from "./toolbar.js";
import { Watchers } from "./watchers.js";

const PLACE_EVERY_MS = 3000;
const TICK_MS = 250;
const EXTRAS_AFTER_MS = 1000;
const NEEDS_CONTROL = "Take control first.";
/** @type {["fit"|"actual"|"match", string][]} */
const MODES = [["fit", "Fit into the viewer"], ["actual", "Actual size"], ["match", "Resize the desktop to the viewer"]];
/** @type {Promise<typeof import("./stream.js")>|null} */
let streamModule = null;
const loadStream = () => (streamModule ??= import("./stream.js"));
/** @type {() => Promise<typeof import("./extras.js")>} */
const loadExtras = () => import("./extras.js");

class SandboxViewer extends HTMLElement {
  static observedAttributes = ["session"];

  /** @type {import("../live.js").Live|null} */
  #live = null;
  /** @type {import("./connection.js").Connection} */
  #connection = ownPage;
  /** @type {import("../session.js").Session|null} */
  #session = null;
  /** @type {import("../api.js").Problem|null} why there is no session to show */
  #problem = null;
  /** @type {"fit"|"actual"|"match"} */
  #mode = "fit";
  #isDragged = false;
  #ticker = 0;
  #placeAskedAt = 0;
  #parts = null;
  /** @type {Record<string, object>} what was made of the extras, by name */
  #made = {};
  #lease = new LeaseBar();
  #watchers = new Watchers();
  #notices = new Notices();
  #facts = new Facts();
  #lastFrame = new LastFrame();
  #cover = new Cover(() => this.refresh());
  #tabs = new Tabs(loadExtras);
  #link = new Link({
    open: (session, isWanted) => this.#open(session, isWanted),
    ask: () => this.#live.ask(this.#session?.id),
    askAgain: () => (this.#wantsStream() ? this.#link.connect(this.#session) : this.#load({ again: true })),
    canSignIn: () => !this.#isShared && !this.#connection.isForeign,
  });
  #onChange = (event) => this.#heard(event.detail);
  #onStale = () => this.#load({ again: true });
  #onWatchers = (event) => event.detail.session_id === this.#session?.id && this.#watchers.refresh();
  #onOnline = () => this.#link.state === "waiting" && this.#link.retry();
  #onFullscreen = () => this.#parts.toolbar.showFullscreen(this.#isFull);

  /** @param {import("./connection.js").Connection} connection */
  set connection(connection) {
    this.#connection = connection;
    for (const part of [this.#lease, this.#watchers, this.#notices, this.#tabs]) part.connection = connection;
  }

  set live(live) {
    this.#live = live;
    if (this.isConnected) this.#follow();
  }

  connectedCallback() {
    if (!this.#parts) this.#build();
    addEventListener("online", this.#onOnline);
    document.addEventListener("fullscreenchange", this.#onFullscreen);
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    if (this.#live) this.#follow();
  }

  disconnectedCallback() {
    removeEventListener("online", this.#onOnline);
    document.removeEventListener("fullscreenchange", this.#onFullscreen);
    this.#live?.removeEventListener("change", this.#onChange);
    this.#live?.removeEventListener("stale", this.#onStale);
    this.#live?.removeEventListener("watchers", this.#onWatchers);
    clearInterval(this.#ticker);
    this.#lease.stop();
    this.#link.drop();
    this.#lastFrame.unfollow();
    this.#made.figures?.close();
    this.#tabs.close();
  }

  attributeChangedCallback(_name, before, now) {
    if (before === now || !this.#parts) return;
    this.#made.clipboard?.close();
    this.#made.keys?.close();
    this.#link.drop();
    this.#link.attempts = 0;
    this.#session = null;
    this.#mode = "fit";
    this.#isDragged = false;
    this.#lastFrame.reset();
    this.#notices.say("");
    this.#load();
  }

  /** Connect again; the sandbox doesn't notice. */
  refresh() {
    this.#link.drop();
    this.#link.attempts = 0;
    this.#load({ again: true });
  }

  get #isShared() {
    return this.hasAttribute("shared");
  }

  /** What enforces it is the server; the page only spares a watcher what would be refused. */
  get #onlyWatches() {
    return onlyWatches(this.#connection);
  }

  /** Within a shadow root the document knows only the root's host. */
  get #isFull() {
    return this.getRootNode().fullscreenElement === this;
  }

  #follow() {
    this.#live.addEventListener("change", this.#onChange);
    this.#live.addEventListener("stale", this.#onStale);
    this.#live.addEventListener("watchers", this.#onWatchers);
    this.#load();
  }

  // ---- what the session is -------------------------------------------------------------------------------------

  async #load({ again = false } = {}) {
    const id = this.getAttribute("session");
    this.#problem = null;
    this.#render();
    // So that the code is there when the session is known.
    if (id) loadStream().catch(() => {});
    if (!id || !this.#live) return;
    try {
      const session = await (again ? this.#live.ask(id) : this.#live.get(id));
      if (this.getAttribute("session") === id) this.#heard(session);
    } catch (problem) {
      if (this.getAttribute("session") === id) this.#failedToLoad(problem);
    }
  }

  #failedToLoad(problem) {
    if (problem.status === 401) return this.#connection.signedOut?.();
    // The picture is there: what the server can't say now it says later.
    if (problem.status !== 404 && this.#link.stream) return;
    if (problem.status === 404) {
      this.#link.drop();
      this.#session = null;
    }
    this.#problem = problem;
    // Not "no such session": the server is silent, so try again by and by, keeping the picture.
    if (problem.status !== 404) this.#link.retryLater("");
    this.#render();
  }

  #heard(session) {
    const mine = session ?? this.#live.sessions.get(this.getAttribute("session"));
    if (!mine || mine.id !== this.getAttribute("session")) return;
    this.#session = mine;
    this.#problem = null;
    // Another backend since: what was open there has no desktop behind it any more.
    if (this.#link.stream && this.#link.shownAs !== mine.display) this.#link.drop();
    if (this.#wantsStream() && this.#link.state === "idle") this.#link.connect(mine);
    if (!this.#wantsStream() && this.#link.state !== "idle") this.#link.drop();
    this.#render();
    this.dispatchEvent(new CustomEvent("sessionchange", { detail: mine }));
  }

  #wantsStream() {
    return this.#session?.status === "running" && this.#session.display !== "none";
  }

  // ---- the stream ----------------------------------------------------------------------------------------------

  async #open(session, isWanted) {
    const { Stream } = await loadStream();
    if (!isWanted() || this.#session?.id !== session.id) return null;
    const stage = this.#parts.stage;
    const how = { connection: this.#connection, shared: this.#isShared };
    if (session.display === "kasmvnc") return new ContentFrame(stage, session.id, { ...how, name: nameOf(session), viewOnly: this.#onlyWatches, mode: this.#mode });
    const stream = new Stream(stage, session.id, how);
    stream.mode = this.#mode;
    stream.isDragged = this.#isDragged;
    stream.addEventListener("notresized", () => this.#notResized());
    return stream;
  }

  #connected() {
    this.#followLease();
    if (this.hasAttribute("bare")) this.#link.stream.focus();
    const { id, display } = this.#session;
    if (display === "kasmvnc" && !this.#isShared) this.#lastFrame.follow(() => pictureOf(this.#connection, id));
  }

  #painted() {
    this.#lastFrame.forget();
    this.#render();
    this.#watchers.refresh();
    // The first click on a button finds its code here, and no picture has waited for it.
    setTimeout(() => loadExtras().catch(() => {}), EXTRAS_AFTER_MS);
  }

  #watchOn(reason) {
    this.#lease.tell(reason ? `${reason}.` : "You no longer have control.");
    this.#link.connect(this.#session);
  }

  /** Keys and clicks go to the desktop of whoever has control; a click on one that nobody has takes it. */
  #followLease({ focus = false } = {}) {
    const { stream, state } = this.#link;
    const isMine = this.#lease.isMine;
    this.dataset.control = isMine ? "mine" : "";
    if (!isMine) this.#made.keys?.release();
    if (stream) stream.viewOnly = !isMine;
    if (focus && isMine && state === "connected") stream?.focus();
    this.#render();
  }

  // ---- what is on the page -------------------------------------------------------------------------------------

  #build() {
    const back = this.getAttribute("back");
    const parts = (this.#parts = {
      badge: element("span", { class: "viewer-badge" }),
      title: element("h2", { class: "viewer-title", dir: "auto" }),
      subtitle: element("p", { class: "viewer-subtitle", dir: "auto" }),
      back: back && element("a", { class: "icon-button viewer-back", href: back, title: "All sandboxes", "aria-label": "All sandboxes" }, icon(icons.back)),
      stage: element("div", { class: "viewer-stage" }),
      // A page of a desktop's own swallows its clicks: this one is above it while a click takes control.
      catcher: element("div", { class: "viewer-catcher", hidden: true }),
      hint: element("p", { class: "viewer-hint" }, "Keyboard goes to the desktop. ", element("kbd", {}, "Ctrl Alt Home"), " gives it back."),
      screen: element("div", { class: "viewer-screen" }),
      toolbar: new Toolbar({
        clipboard: () => this.#toggleClipboard(),
        keys: () => this.#toggleKeys(),
        refresh: () => this.refresh(),
        fullscreen: () => this.#toggleFullscreen(),
        share: () => this.#withExtra("share", (extras) => new extras.ShareDialog(this, this.#connection), (dialog) => dialog.open(this.#session)),
        more: () => this.#openMenu(),
        terminate: () => this.#withExtra("terminate", (extras) => new extras.TerminateDialog(this, this.#connection), (dialog) => !isOver(this.#session) && dialog.open(this.#session, this.#live)),
      }),
    });
    const heading = element("div", { class: "viewer-heading" }, parts.title, parts.badge, this.#watchers.element);
    parts.screen.append(parts.stage, parts.catcher, this.#lastFrame.node, this.#cover.node, parts.hint, this.#tabs.panel);
    // In place of what the page has put there until this code came.
    this.replaceChildren(
      element("header", { class: "viewer-bar" }, parts.back, element("div", { class: "viewer-name" }, heading, parts.subtitle), parts.toolbar.node),
      ...this.#notices.nodes, this.#lease.node, this.#tabs.bar, parts.screen, this.#facts.node);
    this.#listen(parts);
  }

  #listen({ stage, catcher }) {
    const link = this.#link;
    link.addEventListener("change", () => this.#render());
    link.addEventListener("connected", () => this.#connected());
    link.addEventListener("painted", () => this.#painted());
    link.addEventListener("clipboard", (event) => this.#clipboardHeard(event.detail));
    link.addEventListener("cut", () => this.#lastFrame.keep(link.stream));
    link.addEventListener("leaselost", (event) => this.#watchOn(event.detail));
    link.addEventListener("gone", (event) => this.#failedToLoad(event.detail));
    stage.addEventListener("keydown", (event) => this.#maybeReleaseKeyboard(event), { capture: true });
    for (const act of ["pointerdown", "keydown"]) stage.addEventListener(act, () => this.#lease.acted(), { capture: true, passive: true });
    stage.addEventListener("focusout", () => link.stream?.releaseKeys());
    catcher.addEventListener("pointerdown", () => this.#lease.acted());
    this.#lease.addEventListener("change", () => this.#followLease({ focus: true }));
    this.#notices.onanswer = (session, id) => (session?.id ? this.#live.accept(session) : this.#live.ask(id).catch(() => {}));
    this.#watchers.element.addEventListener("click", () => this.#withExtra("watchersList", (extras) => new extras.WatchersList(this), (list) => list.open(this.#watchers.element, this.#watchers.streams)));
  }

  #render() {
    if (!this.#parts) return;
    const session = this.#session;
    const connected = this.#link.state === "connected";
    this.dataset.link = this.#link.state;
    this.#lease.show(session, this.#live);
    this.#parts.catcher.hidden = !(this.#lease.isTakenByActing && this.#link.shownAs === "kasmvnc" && connected);
    this.#renderBar(session, connected);
    this.#notices.show(session, { connected, onlyWatches: this.#onlyWatches });
    const over = { over: this.#lastFrame.isKept, tabAddress: `${this.#connection.base}/open/${session?.id}`, whyAddress: this.#diagnosisAddress() };
    this.#parts.stage.inert = this.#cover.show({ id: this.getAttribute("session") ?? "", session, problem: this.#problem, link: this.#link }, over);
    this.#facts.show(this.hasAttribute("bare") || this.hasAttribute("compact") ? null : session);
    this.#tabs.show(session, !this.#onlyWatches);
    this.#made.keys?.follow(this.#link.stream);
    this.#tick();
  }

  #renderBar(session, connected) {
    const { title, badge: place, toolbar } = this.#parts;
    const id = this.getAttribute("session") ?? "";
    setText(title, this.#isShared ? "A shared desktop" : session ? nameOf(session) : shortId(id) || "No desktop");
    const shown = session ? badgeOf(session) : null;
    if (shown && place.querySelector(".badge")?.textContent !== shown.label) place.replaceChildren(badge(shown));
    if (!shown) place.replaceChildren();
    else setTag(place, backendOf(session));
    place.title = session ? reasonOf(session) : "";
    // A visitor is not told who else watches.
    this.#watchers.follow(session && connected && !this.#isShared ? session.id : "");
    const address = session?.novnc_url?.startsWith("/") ? this.#connection.base + session.novnc_url : (session?.novnc_url ?? "");
    toolbar.show({ session, id, connected, onlyWatches: this.#onlyWatches, isMine: this.#lease.isMine, isBare: this.hasAttribute("bare"), isForeign: this.#connection.isForeign, isShared: this.#isShared }, address);
    if (toolbar.buttons.clipboard.disabled) this.#made.clipboard?.close();
    if (toolbar.buttons.keys.disabled) this.#made.keys?.close();
  }

  #renderSubtitle(session) {
    const reason = session ? reasonOf(session) : "";
    this.#parts.subtitle.dataset.tone = session?.status === "error" ? "bad" : "";
    const clock = session?.status === "creating" ? elapsed(session) : "";
    const more = [session && this.#onlyWatches && "view only", session && this.getAttribute("note")].filter(Boolean);
    const words = reason ? [reason, clock] : [session && screenOf(session), ...more];
    setText(this.#parts.subtitle, words.filter(Boolean).join(" · "));
    // What the row of facts says too.
    this.#parts.subtitle.dataset.plain = String(!reason && !more.length);
    this.#parts.subtitle.title = reason;
  }

  #tick() {
    if (!this.#parts) return;
    this.#cover.tick();
    this.#facts.tick();
    this.#renderSubtitle(this.#session);
    this.#askForPlace();
  }

  /** A place in line changes by what others do, of which no event tells. */
  #askForPlace() {
    if (!this.#session || !isQueued(this.#session) || document.hidden || Date.now() < this.#placeAskedAt + PLACE_EVERY_MS) return;
    this.#placeAskedAt = Date.now();
    // A silent server is shown by the list's banner and by the stream of events.
    this.#live?.ask(this.#session.id).catch(() => {});
  }

  // ---- controls ------------------------------------------------------------------------------------------------

  /** Make what `name` is of the extras, once, and use it. */
  async #withExtra(name, make, use) {
    let extras;
    try {
      extras = await loadExtras();
    } catch {
      return this.#notices.say(NOT_LOADED);
    }
    this.#made[name] ??= make(extras);
    if (this.#session) use(this.#made[name]);
  }

  async #toggleFullscreen() {
    if (this.#isFull) return document.exitFullscreen();
    try {
      await this.requestFullscreen({ navigationUI: "hide" });
      this.#link.stream?.focus();
    } catch {
      // The browser or a framing page forbids it; the button stays for another try.
    }
  }

  get #isForeign() {
    return this.#link.shownAs === "kasmvnc";
  }

  #clipboardText = "";

  #clipboardHeard(text) {
    this.#clipboardText = text;
    if (this.#made.clipboard) this.#made.clipboard.text.value = text;
  }

  #toggleClipboard() {
    this.#withExtra("clipboard", (extras) => this.#newClipboard(extras), (panel) => {
      if (panel.isOpen) return panel.close();
      panel.open({ isForeign: this.#isForeign });
      this.#parts.toolbar.setExpanded("clipboard", true);
    });
  }

  #newClipboard(extras) {
    const panel = new extras.ClipboardPanel({ send: (text) => this.#sendClipboard(text), closed: () => this.#panelClosed("clipboard") });
    panel.text.value = this.#clipboardText;
    this.#parts.screen.append(panel.node);
    return panel;
  }

  #sendClipboard(text) {
    this.#link.stream?.paste(text);
    this.#made.clipboard.close();
    this.#link.stream?.focus();
  }

  #toggleKeys() {
    this.#withExtra("keys", (extras) => this.#newKeys(extras), (panel) => {
      if (panel.isOpen) return panel.close();
      panel.open(this.#link.stream, { isForeign: this.#isForeign });
      this.#parts.toolbar.setExpanded("keys", true);
    });
  }

  #newKeys(extras) {
    const panel = new extras.KeysPanel({ closed: () => this.#panelClosed("keys") });
    this.#parts.screen.before(panel.node);
    panel.node.addEventListener("click", () => this.#lease.acted());
    return panel;
  }

  #panelClosed(name) {
    const { toolbar } = this.#parts;
    toolbar.setExpanded(name, false);
    const active = this.getRootNode().activeElement;
    if (active?.localName !== "body" && !this.contains(active)) return;
    if (toolbar.buttons[name].getClientRects().length && !toolbar.buttons[name].disabled) toolbar.buttons[name].focus();
    else toolbar.focus();
  }

  // A desktop takes every key, Tab too: without a way out, a person without a mouse could never leave it.
  #maybeReleaseKeyboard(event) {
    if (!(event.ctrlKey && event.altKey && event.key === "Home")) return;
    event.preventDefault();
    event.stopPropagation();
    this.#parts.toolbar.focus();
  }

  // ---- the menu ------------------------------------------------------------------------------------------------

  #openMenu() {
    this.#withExtra("menu", (extras) => new extras.MoreMenu(this), (menu) => menu.open(this.#parts.toolbar.buttons.more, this.#menuGroups()));
  }

  #menuGroups() {
    const left = this.#parts.toolbar.leftOut().map(({ name, label, icon: shapes, button }) => ({
      name, label: button.title || label, icon: shapes, href: button.getAttribute("href") ?? undefined, run: () => button.click(),
      why: button.disabled || (name === "tab" && !button.hasAttribute("href")) ? this.#whyNot(name) : "",
    }));
    return [
      { title: "Picture", items: this.#wantsStream() ? this.#pictureItems() : [] },
      { title: "Desktop", items: this.#desktopItems() },
      { title: "Viewer", items: left },
    ];
  }

  #whyNot(name) {
    if (isOver(this.#session)) return "It has ended.";
    return this.#link.state === "connected" && (name === "clipboard" || name === "keys") ? NEEDS_CONTROL : "Not just now.";
  }

  #pictureItems() {
    const isRemote = (mode) => mode === "match" && !this.#lease.isMine;
    const items = MODES.map(([mode, label]) => ({ name: mode, label, isOn: this.#mode === mode, why: isRemote(mode) ? NEEDS_CONTROL : "", run: () => this.#setMode(mode) }));
    if (this.#mode === "actual" && this.#lease.isMine && !this.#isForeign) items.push({ name: "drag", label: "Dragging moves the picture", isOn: this.#isDragged, run: () => this.#setDragged(!this.#isDragged) });
    return items;
  }

  #desktopItems() {
    const session = this.#session;
    const running = session.status === "running" && session.display !== "none";
    const items = [];
    if (running) items.push({ name: "screenshot", label: "Save a screenshot", icon: icons.picture, run: () => this.#saveScreenshot() });
    if (running) items.push({ name: "figures", label: "Connection figures", icon: icons.speed, run: () => this.#toggleFigures() });
    const diagnosis = this.#diagnosisAddress();
    if (diagnosis) items.push({ name: "diagnosis", label: "Why is this black?", icon: icons.warning, href: diagnosis });
    if (session.kind === "sandbox" && !this.#onlyWatches && !isOver(session)) items.push({ name: "renew", label: "Renew…", icon: icons.renew, run: () => this.#renew() });
    return items;
  }

  /** The page that says why nothing is to be seen; "" for whoever has no sign-in for it. */
  #diagnosisAddress() {
    const id = this.#session?.id;
    return id && !this.#isShared && !this.#connection.isForeign ? `/diagnosis/${id}` : "";
  }

  #setMode(mode) {
    this.#mode = mode;
    // Such a client takes it from its address alone.
    if (this.#isForeign) return this.refresh();
    if (this.#link.stream) this.#link.stream.mode = mode;
    this.#link.stream?.focus();
  }

  #setDragged(isDragged) {
    this.#isDragged = isDragged;
    if (this.#link.stream) this.#link.stream.isDragged = isDragged;
  }

  #notResized() {
    this.#notices.say("This desktop does not take another size; its picture is fitted instead.");
    this.#mode = "fit";
    if (this.#link.stream) this.#link.stream.mode = "fit";
  }

  async #saveScreenshot() {
    try {
      const { saveScreenshot } = await loadExtras();
      const connection = this.#isShared ? { ...this.#connection, picture: undefined } : this.#connection;
      await saveScreenshot(this, { session: this.#session, stream: this.#link.stream, connection });
    } catch (problem) {
      this.#notices.say(`No screenshot: ${problem.message}`);
    }
  }

  #toggleFigures() {
    this.#withExtra("figures", (extras) => this.#newFigures(extras), (panel) => (panel.isOpen ? panel.close() : panel.open(this.#link)));
  }

  #newFigures(extras) {
    const panel = new extras.FiguresPanel();
    this.#parts.screen.append(panel.node);
    return panel;
  }

  #renew() {
    this.#withExtra("renew", (extras) => new extras.RenewDialog(this, this.#connection, (text) => this.#notices.say(text)), (dialog) => dialog.open(this.#session, this.#live));
  }
}

/** Why it is as it is, where that is not what everybody expects; "" while it simply runs. @param {import("../session.js").Session} session */
function reasonOf(session) {
  if (session.status === "error") return session.error_message || inWords(session.status_reason);
  if (hostIsLost(session)) return `${session.host ? `Host ${session.host}` : "The host"} does not answer`;
  if (session.status === "creating") return inWords(session.status_reason) || "Starting the desktop";
  if (session.status === "running") return "";
  return session.status_reason === session.status ? "" : inWords(session.status_reason);
}

customElements.define(names.viewer, SandboxViewer);
