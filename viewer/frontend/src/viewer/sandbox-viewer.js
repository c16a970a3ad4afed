// <sandbox-viewer session="…">: one desktop with its status and its controls.
//
// Attributes: `session` (id); `bare` (fills the window, without the row of facts); `back` (address of the list, for
// narrow screens); `shared` (watched by a share link); `note` (a word on the second line). The page sets `.live` (a Live) once, before or after the element is on the page;
// before that `.connection`, when the fleet is not the page's own.

import { Problem, serverNow } from "../api.js";
import { onlyWatches, ownPage } from "./connection.js";
import { ContentFrame } from "./content-frame.js";
import { DevToolsTab } from "./devtools-frame.js";
import { badge, element, icon, iconButton, relabel, setTag, setText } from "../dom.js";
import * as icons from "../icons.js";
import { LeaseBar } from "./lease-bar.js";
import { ShareDialog } from "./share-dialog.js";
import { CLOSE, ago, backendOf, badgeOf, countdown, duration, endsOf, exactly, hostIsLost, inWords, isEnding, isOver, isQueued, nameOf, placeInLine, screenOf, shortId } from "../session.js";
import { Watchers } from "./watchers.js";

const BACK_OFF_S = [0.5, 1, 2, 3, 5, 8, 10];
const STEADY_AFTER_MS = 10_000;
const PLACE_EVERY_MS = 3000;
const SOON_MS = 60_000;
const IN_A_TAB = "In a tab of its own the desktop can be shown.";
// Begun with the page, so that the code is there when the session is known.
const streamModule = import("./stream.js");
streamModule.catch(() => {});

class SandboxViewer extends HTMLElement {
  static observedAttributes = ["session"];

  /** @type {import("../live.js").Live|null} */
  #live = null;
  #connection = ownPage;
  /** @type {import("../session.js").Session|null} */
  #session = null;
  /** @type {Problem|null} why there is no session to show */
  #problem = null;
  #stream = null;
  /** @type {"idle"|"connecting"|"connected"|"waiting"|"refused"} of the stream */
  #link = "idle";
  #linkReason = "";
  /** What to do about it where trying again is not all. */
  #linkAdvice = "";
  /** How the open stream shows the desktop: `display` of its session then. */
  #shownAs = "";
  #attempts = 0;
  #retryAt = 0;
  #retryTimer = 0;
  #steadyTimer = 0;
  #ticker = 0;
  #placeAskedAt = 0;
  #hasLastFrame = false;
  #parts = null;
  #lease = new LeaseBar();
  #devtools = new DevToolsTab();
  #onChange = (event) => this.#heard(event.detail);
  #onStale = () => this.#load({ again: true });
  #watchers = new Watchers();
  #onWatchers = (event) => event.detail.session_id === this.#session?.id && this.#watchers.refresh();
  #onOnline = () => this.#link === "waiting" && this.#connect();
  #onFullscreen = () => this.#fullscreenChanged();

  /** @param {import("./connection.js").Connection} connection */
  set connection(connection) {
    this.#connection = connection;
    for (const part of [this.#lease, this.#devtools, this.#watchers, this.#shareDialog]) if (part) part.connection = connection;
  }

  /** What enforces it is the server; the page only spares a watcher what would be refused. */
  get #onlyWatches() {
    return onlyWatches(this.#connection);
  }

  set live(live) {
    this.#live = live;
    if (this.isConnected) this.#follow();
  }

  connectedCallback() {
    if (!this.#parts) this.#build();
    addEventListener("online", this.#onOnline);
    document.addEventListener("fullscreenchange", this.#onFullscreen);
    this.#ticker = setInterval(() => this.#tick(), 250);
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
    this.#dropStream();
    this.#devtools.close();
  }

  attributeChangedCallback(_name, before, now) {
    if (before === now || !this.#parts) return;
    this.#dropStream();
    this.#attempts = 0;
    this.#session = null;
    this.#forgetLastFrame();
    this.#closeClipboard();
    this.#load();
  }

  /** Connect again; the sandbox doesn't notice. */
  refresh() {
    this.#dropStream();
    this.#attempts = 0;
    this.#load({ again: true });
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
    if (problem.status !== 404 && this.#stream) return;
    if (problem.status === 404) {
      this.#dropStream();
      this.#session = null;
    }
    this.#problem = problem;
    // Not "no such session": the server is silent, so try again by and by, keeping the picture.
    if (problem.status !== 404) this.#retryLater("");
    this.#render();
  }

  #heard(session) {
    const mine = session ?? this.#live.sessions.get(this.getAttribute("session"));
    if (!mine || mine.id !== this.getAttribute("session")) return;
    this.#session = mine;
    this.#problem = null;
    // Another backend since: what was open there has no desktop behind it any more.
    if (this.#stream && this.#shownAs !== mine.display) this.#dropStream();
    if (this.#wantsStream() && this.#link === "idle") this.#connect();
    if (!this.#wantsStream() && this.#link !== "idle") this.#dropStream();
    this.#render();
    this.dispatchEvent(new CustomEvent("sessionchange", { detail: mine }));
  }

  #wantsStream() {
    return this.#session?.status === "running" && this.#session.display !== "none";
  }

  // ---- the stream ----------------------------------------------------------------------------------------------

  async #connect() {
    clearTimeout(this.#retryTimer);
    const id = this.#session?.id;
    if (!id) return this.#load({ again: true });
    this.#link = "connecting";
    this.#render();
    let module;
    try {
      module = await streamModule;
    } catch {
      return this.#refuse("Part of this page could not be loaded. Reload it to try again.");
    }
    if (this.#link !== "connecting" || this.#session?.id !== id || this.#stream) return;
    this.#shownAs = this.#session.display;
    const stream = (this.#stream = this.#shownAs === "kasmvnc"
      ? new ContentFrame(this.#parts.stage, id, { name: nameOf(this.#session), viewOnly: this.#onlyWatches, connection: this.#connection, shared: this.hasAttribute("shared") })
      : new module.Stream(this.#parts.stage, id, { connection: this.#connection, shared: this.hasAttribute("shared") }));
    stream.addEventListener("connected", () => this.#connected());
    stream.addEventListener("painted", () => stream === this.#stream && this.#forgetLastFrame());
    stream.addEventListener("clipboard", (event) => (this.#parts.clipboardText.value = event.detail));
    stream.addEventListener("ended", (event) => this.#ended(event.detail));
  }

  #connected() {
    this.#link = "connected";
    this.#followLease();
    this.#steadyTimer = setTimeout(() => (this.#attempts = 0), STEADY_AFTER_MS);
    if (this.hasAttribute("bare")) this.#stream.focus();
    this.#render();
    this.#watchers.refresh();
  }

  /** Keys and clicks go to the desktop of whoever has control; a click on one that nobody has takes it. */
  #followLease({ focus = false } = {}) {
    this.dataset.control = this.#lease.isMine ? "mine" : "";
    if (this.#stream) this.#stream.viewOnly = !this.#lease.isMine;
    if (focus && this.#lease.isMine && this.#link === "connected") this.#stream?.focus();
    this.#parts.catcher.hidden = !(this.#lease.isTakenByActing && this.#shownAs === "kasmvnc" && this.#link === "connected");
    this.#render();
  }

  #refuse(reason, advice = "") {
    this.#link = "refused";
    this.#linkReason = reason;
    this.#linkAdvice = advice;
    this.#render();
  }

  async #ended({ code, reason, problem, blocked }) {
    clearTimeout(this.#steadyTimer);
    this.#keepLastFrame();
    this.#stream = null;
    const id = this.#session?.id;
    this.#link = "waiting";
    this.#retryAt = 0;
    this.#linkReason = this.#shownAs === "kasmvnc" && !code ? reason : streamReason(code, reason);
    // He may go on watching, at once, and over the picture that he had.
    if (code === CLOSE.leaseLost) return this.#watchOn(reason);
    this.#render();
    if (code === CLOSE.revoked) this.#refuse(this.#linkReason, reason.startsWith("the role") ? "Reload the page to see what you may do now." : "");
    // Before the page asks anything and is led to the sign-in page: first say what has happened.
    // A visitor's page asks what became of his link, and says that.
    if (code === CLOSE.signedOut && !this.hasAttribute("shared")) return this.#refuse(this.#linkReason, reason.startsWith("the share") ? "" : "Sign in again to go on.");
    // Each try of such a desktop loads its whole page and needs a ticket: not until somebody asks for it.
    if (code === CLOSE.busy && this.#shownAs === "kasmvnc") this.#refuse(this.#linkReason);
    if (problem?.status === 409) this.#refuse("This desktop's page cannot be shown", reason);
    if (blocked) this.#refuse(reason, IN_A_TAB);
    // noVNC and a refused handshake say nothing of the cause; the session's row knows.
    try {
      await this.#live.ask(id);
    } catch (problem) {
      if (this.#session?.id === id && (problem.status === 401 || problem.status === 404)) {
        this.#link = "idle";
        return this.#failedToLoad(problem);
      }
    }
    if (this.#session?.id !== id || this.#link !== "waiting") return;
    this.#retryLater(this.#linkReason);
  }

  #watchOn(reason) {
    this.#lease.tell(reason ? `${reason}.` : "You no longer have control.");
    this.#linkReason = "";
    this.#connect();
  }

  #retryLater(reason) {
    clearTimeout(this.#retryTimer);
    const base = BACK_OFF_S[Math.min(this.#attempts++, BACK_OFF_S.length - 1)];
    // Spread out: twenty pages that lost one relay must not all come back at the same moment.
    const wait = base * 1000 * (0.85 + Math.random() * 0.3);
    this.#link = "waiting";
    this.#linkReason = reason;
    this.#retryAt = Date.now() + wait;
    this.#retryTimer = setTimeout(() => (this.#wantsStream() ? this.#connect() : this.#retryLoad()), wait);
    this.#render();
  }

  #retryLoad() {
    this.#link = "idle";
    this.#load({ again: true });
  }

  #dropStream() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#steadyTimer);
    this.#keepLastFrame();
    this.#stream?.close();
    this.#stream = null;
    this.#link = "idle";
    this.#linkReason = this.#linkAdvice = "";
  }

  #keepLastFrame() {
    if (!this.#stream?.copyTo(this.#parts.lastFrame)) return;
    this.#hasLastFrame = true;
    this.#parts.lastFrame.hidden = false;
  }

  #forgetLastFrame() {
    this.#hasLastFrame = false;
    this.#parts.lastFrame.hidden = true;
    this.#render();
  }

  // ---- what is on the page -------------------------------------------------------------------------------------

  #build() {
    const back = this.getAttribute("back");
    const parts = {
      badge: element("span", { class: "viewer-badge" }),
      title: element("h2", { class: "viewer-title" }),
      subtitle: element("p", { class: "viewer-subtitle" }),
      back: back && element("a", { class: "icon-button viewer-back", href: back, title: "All sandboxes", "aria-label": "All sandboxes" }, icon(icons.back)),
      clipboard: iconButton(icons.clipboard, "Clipboard", () => this.#toggleClipboard(), { "aria-expanded": "false", "data-control": "clipboard" }),
      refresh: iconButton(icons.refresh, "Reconnect", () => this.refresh(), { "data-control": "refresh" }),
      fullscreen: iconButton(icons.fullscreen, "Full screen", () => this.#toggleFullscreen(), { "data-control": "fullscreen" }),
      tab: element("a", { class: "icon-button", target: "_blank", rel: "noopener", title: "Open in a new tab", "aria-label": "Open in a new tab", "data-control": "tab" }, icon(icons.tab)),
      share: iconButton(icons.share, "Share", () => this.#session && this.#shareDialog.open(this.#session), { "data-control": "share" }),
      terminate: iconButton(icons.stop, "Terminate", () => this.#askToTerminate(), { "data-control": "terminate" }),
      notice: element("p", { class: "viewer-notice", hidden: true }),
      stage: element("div", { class: "viewer-stage" }),
      lastFrame: element("canvas", { class: "viewer-last-frame", hidden: true, "aria-hidden": "true" }),
      cover: element("div", { class: "viewer-cover", role: "status" }),
      // A page of a desktop's own swallows its clicks: this one is above it while a click takes control.
      catcher: element("div", { class: "viewer-catcher", hidden: true }),
      hint: element("p", { class: "viewer-hint" }, "Keyboard goes to the desktop. ", element("kbd", {}, "Ctrl Alt Home"), " gives it back."),
      facts: element("dl", { class: "viewer-facts" }),
      clipboardText: element("textarea", { rows: "5", spellcheck: "false", "aria-label": "Text on the desktop's clipboard" }),
      clipboardPanel: element("div", { class: "viewer-clipboard", hidden: true }),
    };
    const send = element("button", { type: "button", class: "button primary" }, "Send to desktop");
    send.addEventListener("click", () => this.#sendClipboard());
    parts.clipboardPanel.append(
      element("p", {}, "Text copied on the desktop shows here. Write or paste here to send it there."), parts.clipboardText, send);
    this.#parts = parts;
    this.#coverParts();
    this.append(
      element("header", { class: "viewer-bar" }, parts.back, element("div", { class: "viewer-name" }, element("div", { class: "viewer-heading" }, parts.title, parts.badge, this.#watchers.element), parts.subtitle),
        element("div", { class: "viewer-controls" }, parts.clipboard, parts.refresh, parts.fullscreen, parts.tab, parts.share, parts.terminate)),
      this.#lease.node, parts.notice, this.#devtools.bar,
      element("div", { class: "viewer-screen" }, parts.stage, parts.catcher, parts.lastFrame, parts.cover, parts.clipboardPanel, parts.hint, this.#devtools.panel), parts.facts);
    this.#dialog = new TerminateDialog(this);
    this.#shareDialog = new ShareDialog(this);
    this.#shareDialog.connection = this.#connection;
    parts.stage.addEventListener("keydown", (event) => this.#maybeReleaseKeyboard(event), { capture: true });
    this.#lease.addEventListener("change", () => this.#followLease({ focus: true }));
    for (const act of ["pointerdown", "keydown"]) parts.stage.addEventListener(act, () => this.#lease.acted(), { capture: true, passive: true });
    parts.catcher.addEventListener("pointerdown", () => this.#lease.acted());
    parts.stage.addEventListener("focusout", () => this.#stream?.releaseKeys());
    parts.clipboardPanel.addEventListener("keydown", (event) => event.key === "Escape" && this.#closeClipboard());
  }

  #dialog = null;
  #shareDialog = null;

  #coverParts() {
    const cover = {
      icon: element("div", { class: "cover-icon" }),
      heading: element("p", { class: "cover-heading" }),
      text: element("p", { class: "cover-text" }),
      clock: element("p", { class: "cover-clock", "aria-live": "off" }),
      action: element("button", { type: "button", class: "button", hidden: true }),
      tab: element("a", { class: "button", target: "_blank", rel: "noopener", hidden: true }, "Open in a tab"),
      shown: "",
    };
    cover.action.addEventListener("click", () => this.refresh());
    this.#parts.cover.append(cover.icon, cover.heading, cover.text, cover.clock, element("div", { class: "cover-actions" }, cover.action, cover.tab));
    this.#cover = cover;
  }

  #cover = null;

  #render() {
    if (!this.#parts) return;
    const session = this.#session;
    this.dataset.link = this.#link;
    this.#lease.show(session, this.#live);
    this.#renderBar(session);
    this.#renderNotice(session);
    this.#renderCover(this.#coverFor(session));
    this.#renderFacts(session);
    this.#devtools.show(session, !this.#onlyWatches);
    this.#tick();
  }

  #renderBar(session) {
    const parts = this.#parts;
    setText(parts.title, this.hasAttribute("shared") ? "A shared desktop" : session ? nameOf(session) : shortId(this.getAttribute("session") ?? "") || "No desktop");
    setText(parts.subtitle, [session && screenOf(session), session && this.#onlyWatches && "view only", session && this.getAttribute("note")].filter(Boolean).join(" · "));
    const shown = session ? badgeOf(session) : null;
    if (shown && parts.badge.querySelector(".badge")?.textContent !== shown.label) parts.badge.replaceChildren(badge(shown));
    if (!shown) parts.badge.replaceChildren();
    else setTag(parts.badge, backendOf(session));
    const live = session && !isOver(session);
    // A visitor is not told who else watches.
    this.#watchers.follow(session && this.#link === "connected" && !this.hasAttribute("shared") ? session.id : "");
    // KasmVNC's page keeps the two clipboards alike by itself.
    parts.clipboard.hidden = this.#onlyWatches || session?.display === "kasmvnc";
    parts.clipboard.disabled = this.#link !== "connected" || !this.#lease.isMine;
    parts.refresh.disabled = !this.getAttribute("session");
    parts.fullscreen.hidden = !document.fullscreenEnabled;
    parts.fullscreen.disabled = !session;
    parts.tab.hidden = this.hasAttribute("bare");
    if (live && session.novnc_url) parts.tab.href = session.novnc_url;
    else parts.tab.removeAttribute("href");
    parts.share.hidden = this.#onlyWatches || session?.display === "none";
    parts.share.disabled = !live;
    parts.terminate.hidden = session?.kind === "desktop" || this.#onlyWatches;
    parts.terminate.disabled = !live;
    if (parts.clipboard.disabled) this.#closeClipboard();
  }

  #renderNotice(session) {
    const notice = this.#parts.notice;
    let text = "";
    if (session && isEnding(session) && this.#link === "connected") text = "This desktop is being ended.";
    else if (session && hostIsLost(session)) text = `${session.host ? `Host ${session.host}` : "The host"} does not answer. The desktop may still be running there; what you see may be old.`;
    else if (session?.status === "running" && session.status_reason === "blank") text = "The desktop is connected, but has drawn nothing on its screen yet.";
    setText(notice, text);
    notice.hidden = !text;
  }

  /** @returns {{icon: string, heading: string, text?: string, clock?: () => string, action?: string, tab?: boolean, busy?: boolean, tone?: string}|null} */
  #coverFor(session) {
    if (!this.getAttribute("session")) return { icon: icons.screen, heading: "No desktop selected", text: "Choose one from the list, or start a new one." };
    if (this.#problem) return this.#coverForProblem(this.#problem);
    if (!session) return { icon: "", heading: "Loading…", busy: true };
    if (isEnding(session) && this.#link !== "connected") return { icon: "", busy: true, heading: "Terminating…", text: hostIsLost(session) ? "The host does not answer. The desktop ends as soon as it does." : "" };
    if (session.status === "creating") return this.#coverForCreating(session);
    if (session.status === "error") return { icon: icons.warning, tone: "bad", heading: "This desktop failed", text: session.error_message || inWords(session.status_reason) || "No reason was given." };
    if (session.status === "terminated") return this.#coverForTerminated(session);
    if (session.status === "paused") return { icon: icons.moon, heading: "This desktop is paused", text: inWords(session.status_reason) };
    if (session.display === "none") return { icon: icons.screen, heading: "No screen to show", text: "This sandbox has no display." };
    return this.#coverForLink();
  }

  #coverForProblem(problem) {
    if (problem.status === 404) return { icon: icons.screen, heading: "There is no such desktop", text: "It may have been removed, or it belongs to somebody else." };
    return { icon: icons.plug, heading: "Not reachable", text: problem.message, clock: () => this.#retryText(), action: "Try now" };
  }

  #coverForCreating(session) {
    const since = Date.parse(session.created_at);
    if (isQueued(session)) return { icon: "", busy: true, heading: "Waiting in line", text: placeInLine(session.queue_position), clock: () => duration(serverNow() - since) };
    const text = [inWords(session.status_reason) || "Starting the desktop", hostIsLost(session) ? "The host does not answer." : ""].filter(Boolean).join(". ");
    return { icon: "", busy: true, heading: "Creating your desktop", text, clock: () => duration(serverNow() - since) };
  }

  #coverForTerminated(session) {
    const ended = Date.parse(session.terminated_at ?? session.updated_at);
    const reason = session.status_reason && session.status_reason !== "terminated" ? inWords(session.status_reason) : "";
    return { icon: icons.moon, heading: "The desktop has ended", text: reason, clock: () => ago(serverNow() - ended) };
  }

  #coverForLink() {
    if (this.#link === "connected") return null;
    if (this.#link === "refused") return { icon: icons.warning, tone: "bad", heading: this.#linkReason, text: this.#linkAdvice, action: "Try again", tab: this.#linkAdvice === IN_A_TAB };
    if (this.#link === "waiting") return { icon: icons.plug, heading: this.#linkReason, clock: () => this.#retryText(), action: "Try now" };
    return { icon: "", busy: true, heading: this.#attempts > 0 ? "Reconnecting…" : "Connecting…" };
  }

  #retryText() {
    if (!navigator.onLine) return "This browser is offline.";
    const left = Math.ceil((this.#retryAt - Date.now()) / 1000);
    return left > 0 ? `Reconnecting in ${left} s…` : "Reconnecting…";
  }

  #renderCover(wanted) {
    const cover = this.#cover;
    this.#parts.cover.hidden = !wanted;
    this.#parts.stage.inert = Boolean(wanted);
    cover.clockText = wanted?.clock ?? null;
    if (!wanted) return;
    this.#parts.cover.dataset.tone = wanted.tone ?? "quiet";
    this.#parts.cover.dataset.over = String(this.#hasLastFrame);
    const look = wanted.busy ? "busy" : wanted.icon;
    if (cover.shown !== look) {
      cover.icon.replaceChildren(wanted.busy ? element("span", { class: "spinner" }) : icon(wanted.icon));
      cover.shown = look;
    }
    setText(cover.heading, wanted.heading);
    setText(cover.text, wanted.text ?? "");
    cover.action.hidden = !wanted.action;
    setText(cover.action, wanted.action ?? "");
    cover.tab.hidden = !wanted.tab;
    cover.tab.href = `${this.#connection.base}/open/${this.#session?.id}`;
  }

  #renderFacts(session) {
    const facts = this.#parts.facts;
    facts.hidden = !session || this.hasAttribute("bare");
    if (facts.hidden) return;
    const rows = [["Screen", screenOf(session)], ["Host", session.host], ["Task", session.task_id], ["Agent", session.agent_id], ["Session", session.id]];
    const ends = endsOf(session);
    const key = JSON.stringify([rows, ends]);
    if (facts.dataset.key === key) return;
    facts.dataset.key = key;
    facts.replaceChildren(...rows.filter(([, value]) => value).map(([name, value]) => element("div", { "data-fact": name.toLowerCase() }, element("dt", {}, name), element("dd", { title: value }, value))));
    facts.append(...ends.map(({ name, exact }) => element("div", { "data-end": name }, element("dt", {}, name), element("dd", {}, element("time", { datetime: exact, title: exactly(exact) })))));
    facts.querySelector("[data-end]")?.classList.add("first-end");
  }

  #tick() {
    if (this.#cover?.clockText || this.#cover?.clock.textContent) setText(this.#cover.clock, this.#cover.clockText?.() ?? "");
    for (const time of this.#parts?.facts.querySelectorAll("[data-end] time") ?? []) {
      const left = Date.parse(time.dateTime) - serverNow();
      setText(time, countdown(left));
      time.closest("[data-end]").dataset.soon = String(left < SOON_MS);
    }
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

  async #toggleFullscreen() {
    if (document.fullscreenElement) return document.exitFullscreen();
    try {
      await this.requestFullscreen({ navigationUI: "hide" });
      this.#stream?.focus();
    } catch {
      // The browser or a framing page forbids it; the button stays for another try.
    }
  }

  #fullscreenChanged() {
    const full = document.fullscreenElement === this;
    relabel(this.#parts.fullscreen, full ? icons.shrink : icons.fullscreen, full ? "Leave full screen" : "Full screen");
  }

  #toggleClipboard() {
    const open = this.#parts.clipboardPanel.hidden;
    this.#parts.clipboardPanel.hidden = !open;
    this.#parts.clipboard.setAttribute("aria-expanded", String(open));
    if (open) this.#parts.clipboardText.focus();
  }

  #closeClipboard() {
    if (this.#parts.clipboardPanel.hidden) return;
    const inside = this.#parts.clipboardPanel.contains(document.activeElement);
    this.#parts.clipboardPanel.hidden = true;
    this.#parts.clipboard.setAttribute("aria-expanded", "false");
    if (inside) this.#parts.clipboard.focus();
  }

  #sendClipboard() {
    this.#stream?.paste(this.#parts.clipboardText.value);
    this.#closeClipboard();
    this.#stream?.focus();
  }

  // A desktop takes every key, Tab too: without a way out, a person without a mouse could never leave it.
  #maybeReleaseKeyboard(event) {
    if (!(event.ctrlKey && event.altKey && event.key === "Home")) return;
    event.preventDefault();
    event.stopPropagation();
    this.#parts.refresh.focus();
  }

  #askToTerminate() {
    if (this.#session && !isOver(this.#session)) this.#dialog.ask(this.#session, this.#live, this.#connection);
  }
}

/** "Terminate this desktop?", with its pending state and the server's answer when it fails. */
class TerminateDialog {
  #connection = ownPage;
  #session = null;
  #live = null;

  constructor(parent) {
    this.error = element("p", { class: "form-error", role: "alert", hidden: true });
    this.cancel = element("button", { type: "button", class: "button", autofocus: true }, "Keep it");
    this.confirm = element("button", { type: "button", class: "button danger" }, "Terminate");
    this.text = element("p", {});
    this.box = element("dialog", { class: "dialog", "aria-label": "Terminate this desktop" },
      element("h2", {}, "Terminate this desktop?"), this.text, this.error,
      element("div", { class: "dialog-actions" }, this.cancel, this.confirm));
    this.cancel.addEventListener("click", () => this.box.close());
    this.confirm.addEventListener("click", () => this.#terminate());
    parent.append(this.box);
  }

  ask(session, live, connection) {
    this.#connection = connection;
    this.#session = session;
    this.#live = live;
    this.text.textContent = `Desktop ${nameOf(session)} stops at once. Its programs end and files inside it are lost.`;
    this.error.hidden = true;
    this.#setPending(false);
    this.box.showModal();
  }

  async #terminate() {
    const session = this.#session;
    this.#setPending(true);
    this.error.hidden = true;
    try {
      const answer = await this.#connection.call("DELETE", `/api/v1/sessions/${encodeURIComponent(session.id)}`);
      if (answer?.id) this.#live.accept(answer);
      else await this.#live.ask(session.id);
      if (this.#session === session) this.box.close();
    } catch (problem) {
      if (problem.status === 401) return this.#connection.signedOut?.();
      if (problem.status === 404) return this.box.close();
      this.error.textContent = problem.message;
      this.error.hidden = false;
    } finally {
      this.#setPending(false);
    }
  }

  #setPending(pending) {
    this.confirm.disabled = pending;
    this.confirm.replaceChildren(...(pending ? [element("span", { class: "spinner small" }), "Terminating…"] : ["Terminate"]));
    this.cancel.textContent = pending ? "Close" : "Keep it";
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

customElements.define("sandbox-viewer", SandboxViewer);
