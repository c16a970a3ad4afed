// The Sandboxes page: the tenant's sessions, as its address narrows them, beside one large viewer.

import { call, goToSignIn, serverNow } from "../api.js";
import { attentionOf } from "../attention.js";
import "../common.js";
import { NOT_LOADED, icon, setText } from "../dom.js";
import "../header.js";
import * as icons from "../icons.js";
import { Live } from "../live.js";
import { followLive } from "../needing.js";
import { Feed } from "../sandboxes/feed.js";
import { FilterBar } from "../sandboxes/filter-bar.js";
import { filterFrom, isNarrow, searchOf } from "../sandboxes/filter.js";
import { RowList, mayEnd } from "../sandboxes/rows.js";
import { see } from "../seen.js";
import { isOver, nameOf } from "../session.js";

const TITLE = "Sandboxes · Deskfleet";
const BANNER_AFTER_MS = 1500;
// What calls for attention changes with time alone, too: an idle desktop, an old error.
const ORDER_EVERY_MS = 15_000;
const COUNT_EVERY_MS = 1500;
const NEAR_THE_END_PX = 400;
const wide = matchMedia("(min-width: 861px)");

const page = document.querySelector(".sandboxes");
const scroller = document.querySelector(".list-scroll");
const note = document.querySelector("#list-note");
const count = document.querySelector("#list-count");
const older = document.querySelector("#load-older");
const banner = document.querySelector("#banner");
const bulk = document.querySelector("#bulk");
const viewer = document.querySelector("sandbox-viewer");
const newDesktop = document.querySelector("#new-desktop");
const mayChoose = Boolean(bulk);

const feed = new Feed();
const live = new Live({ withList: true, list: () => feed.read() });
feed.live = live;
const bar = new FilterBar();
const list = new RowList(document.querySelector("#session-list"), scroller, { mayChoose, search: () => searchOf(feed.filter) });

/** @type {import("../session.js").Session[]} */
let shown = [];
let bannerTimer = 0;
let isLoadingOlder = false;
/** The session shown although the address names none: the first one, until somebody chooses. */
let impliedId = null;
/** @type {Set<string>} */
let chosen = new Set();
let lastChosen = null;
let isChoosing = false;

// ---- the address is the truth: which session, and which filter ---------------------------------------------------

const chosenId = () => /^\/sandboxes\/([\w-]+)$/.exec(location.pathname)?.[1] ?? null;
const shownId = () => chosenId() ?? (wide.matches ? impliedId : null);

function open(id) {
  if (chosenId() !== id) history.pushState(null, "", `/sandboxes/${id}${searchOf(feed.filter)}`);
  selectionChanged();
}

function selectionChanged() {
  const id = shownId();
  page.dataset.view = chosenId() ? "viewer" : "list";
  if (id) {
    viewer.setAttribute("session", id);
    loadViewer();
  } else viewer.removeAttribute("session");
  const session = live.sessions.get(id ?? "");
  if (session && !document.hidden) see(session);
  list.current = id;
  renderTitle(session);
}

let isViewerAsked = false;

/** Its code comes with the first desktop that is shown: a list alone, as on a phone, does without. */
async function loadViewer() {
  if (isViewerAsked) return;
  isViewerAsked = true;
  const [heading, text] = [".cover-heading", ".cover-text"].map((name) => viewer.querySelector(name));
  setText(heading, "Loading…");
  setText(text, "");
  try {
    await import("../viewer/sandbox-viewer.js");
    // Not before: what is set on an element that is not yet one of ours hides its setter.
    viewer.live = live;
  } catch {
    setText(heading, NOT_LOADED);
  }
}

function renderTitle(session) {
  document.title = session ? `${attentionOf(session, serverNow()).label} · ${nameOf(session)} · Deskfleet` : TITLE;
}

/** With nothing chosen, the first session that lives opens by itself, and a new one when that has ended. */
function updateImplied() {
  const implied = live.sessions.get(impliedId ?? "");
  if (implied && !isOver(implied) && shown.includes(implied)) return;
  const first = shown.find((session) => !isOver(session));
  if (first) impliedId = first.id;
  else if (!implied || !shown.includes(implied)) impliedId = null;
}

function filterAsked({ detail: { filter, isTyped } }) {
  const [before, after] = [searchOf(feed.filter), searchOf(filter)];
  if (before === after) return bar.show(filter);
  // One entry of the history for a text, not one for each of its letters.
  const goesOn = isTyped && history.state?.isTyped;
  history[goesOn ? "replaceState" : "pushState"]({ isTyped }, "", location.pathname + after);
  filterChanged();
}

function filterChanged() {
  feed.filter = filterFrom(location.search);
  bar.show(feed.filter);
  scroller.scrollTop = 0;
  choose(new Set());
  refresh();
  live.readList();
}

function addressChanged() {
  if (location.search === searchOf(feed.filter)) selectionChanged();
  else filterChanged();
}

// ---- list -------------------------------------------------------------------------------------------------------

function refresh() {
  shown = feed.shown(serverNow());
  updateImplied();
  list.show(shown, serverNow());
  older.hidden = !feed.hasMore;
  setText(older, isLoadingOlder ? "Loading…" : feed.isSparse ? "Look further back" : "Show older");
  renderNote();
  selectionChanged();
  if (chosen.size) choose(new Set([...chosen].filter((id) => mayEnd(live.sessions.get(id) ?? { status: "terminated" }))));
}

function renderNote() {
  const state = feed.isRead ? (isNarrow(feed.filter) ? "filtered" : "empty") : live.problem ? "error" : "loading";
  note.hidden = shown.length > 0;
  note.dataset.state = state;
  for (const part of note.children) part.hidden = part.dataset.for !== state;
  setText(note.querySelector("[data-further]"), feed.hasMore ? "None among the newest ones. There are older ones." : "");
  if (live.problem) setText(note.querySelector("[data-problem]"), live.problem.message);
}

// Events come in bursts; one drawing per frame is enough.
let drawing = 0;
function refreshSoon() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    refresh();
  });
}

async function loadOlder() {
  if (isLoadingOlder || !feed.hasMore) return;
  isLoadingOlder = true;
  setText(older, "Loading…");
  try {
    await feed.more();
  } catch (problem) {
    if (problem.status === 401) return goToSignIn();
    showBanner(problem.message);
  } finally {
    isLoadingOlder = false;
    refresh();
  }
}

function scrolled() {
  const isNear = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_THE_END_PX;
  // What is found nowhere near is looked for only when somebody asks for it.
  if (isNear && scroller.scrollTop > 0 && !feed.isSparse && live.state === "live") loadOlder();
}

// ---- how many there are -----------------------------------------------------------------------------------------

let counting = 0;
let countAgain = false;

/** Changes come in bursts, and each answer counts. */
function countSoon() {
  if (counting) return (countAgain = true);
  counting = setTimeout(() => {
    counting = 0;
    if (countAgain) countSoon();
    countAgain = false;
  }, COUNT_EVERY_MS);
  countNow();
}

async function countNow() {
  try {
    const { creating, running, paused, error, needs_person } = await call("GET", "/api/v1/sessions/counts");
    const active = creating + running + paused;
    setText(count, `${active} active`);
    bar.count({ active, help: needs_person, failed: error });
  } catch {
    // The list says what is wrong.
  }
}

// ---- connection -------------------------------------------------------------------------------------------------

function stateChanged() {
  clearTimeout(bannerTimer);
  if (live.state === "live" || live.state === "connecting") banner.hidden = true;
  else if (live.state === "offline") showBanner("You are offline. The list is as it was when the connection was lost.");
  // A restart of the server takes less than this; a banner that only flashes up would be noise.
  else bannerTimer = setTimeout(() => showBanner("Connection to the server lost. Reconnecting…"), BANNER_AFTER_MS);
}

function showBanner(text) {
  setText(banner.querySelector("span:last-child"), text);
  banner.hidden = false;
}

// ---- several at once --------------------------------------------------------------------------------------------

function choose(ids, { choosing = ids.size > 0 || isChoosing } = {}) {
  if (!mayChoose) return;
  chosen = ids;
  isChoosing = choosing;
  page.dataset.choosing = String(isChoosing);
  list.chosen = ids;
  bulk.hidden = !isChoosing;
  setText(bulk.querySelector("[data-chosen]"), ids.size ? `${ids.size} chosen` : "Choose desktops");
  for (const button of bulk.querySelectorAll("[data-act]")) button.disabled = !ids.size;
  document.querySelector("#choose").setAttribute("aria-pressed", String(isChoosing));
}

function toggle(id, isChosen, toHere = false) {
  const session = live.sessions.get(id);
  if (!session || !mayEnd(session)) return;
  const ids = toHere && lastChosen ? list.between(lastChosen, id) : [id];
  const next = new Set(chosen);
  for (const one of ids) if (mayEnd(live.sessions.get(one))) next[isChosen ? "add" : "delete"](one);
  lastChosen = id;
  choose(next, { choosing: next.size > 0 });
}

const extras = () => import("../sandboxes/extras.js");
/** What was made of them, by name. */
const made = {};

async function extra(name, make) {
  try {
    const module = await extras();
    return (made[name] ??= make(module));
  } catch {
    showBanner(NOT_LOADED);
    return null;
  }
}

async function act(name) {
  const dialog = await extra("bulk", ({ BulkDialog }) => {
    const box = new BulkDialog(live);
    box.addEventListener("done", ({ detail }) => choose(new Set([...chosen].filter((id) => !detail.includes(id))), { choosing: false }));
    return box;
  });
  dialog?.open(name, [...chosen].map((id) => live.sessions.get(id)).filter(Boolean));
}

async function openNewDesktop() {
  if (!newDesktop) return;
  const dialog = await extra("newDesktop", ({ NewDesktopDialog }) => {
    const box = new NewDesktopDialog(newDesktop, live);
    box.addEventListener("created", (event) => open(event.detail.id));
    return box;
  });
  if (!newDesktop.open) dialog?.open(feed.filter);
}

// ---- keys -------------------------------------------------------------------------------------------------------

const KEYS = {
  j: () => list.moveFocus(1),
  k: () => list.moveFocus(-1),
  ArrowDown: () => list.moveFocus(1),
  ArrowUp: () => list.moveFocus(-1),
  "/": () => bar.focusSearch(),
  n: openNewDesktop,
  x: () => list.focusedId && toggle(list.focusedId, !chosen.has(list.focusedId)),
  "?": async () => (await extra("keys", ({ KeysDialog }) => new KeysDialog({ mayCreate: Boolean(newDesktop), mayChoose })))?.open(),
  Escape: () => choose(new Set(), { choosing: false }),
};
const WRITES = "input:not([type=checkbox], [type=radio]), select, textarea, [contenteditable], sandbox-viewer, .menu-panel";

/** In a dialog that has just been closed nobody writes: what has the focus there loses it with the next frame. */
const isWriting = (target) => !target.closest("dialog:not([open])") && target.closest(WRITES);

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const { target } = event;
  if (target.id === "list-search") return pressedInSearch(event);
  if (document.querySelector("dialog[open]") || isWriting(target) || !KEYS[event.key]) return;
  const isArrow = event.key.startsWith("Arrow");
  if (isArrow && !target.closest(".list-scroll")) return;
  event.preventDefault();
  KEYS[event.key]();
}

function pressedInSearch(event) {
  if (event.key === "Escape" && !event.target.value) event.target.blur();
  if (event.key !== "ArrowDown" && event.key !== "Enter") return;
  event.preventDefault();
  list.focus(shown[0]?.id);
}

// ---- what is heard ----------------------------------------------------------------------------------------------

live.addEventListener("change", refreshSoon);
live.addEventListener("change", countSoon);
live.addEventListener("state", stateChanged);
followLive(live);
list.addEventListener("open", (event) => open(event.detail));
list.addEventListener("choose", ({ detail: { id, isChosen, toHere } }) => toggle(id, isChosen, toHere));
bar.addEventListener("filter", filterAsked);
older.addEventListener("click", loadOlder);
scroller.addEventListener("scroll", scrolled, { passive: true });
addEventListener("popstate", addressChanged);
addEventListener("keydown", pressed);
wide.addEventListener("change", selectionChanged);
for (const button of document.querySelectorAll("[data-opens=new-desktop]")) button.addEventListener("click", openNewDesktop);
for (const button of document.querySelectorAll("[data-clears]")) button.addEventListener("click", () => bar.clear());
document.querySelector("[data-again]").addEventListener("click", () => live.readList());
if (mayChoose) {
  const button = document.querySelector("#choose");
  button.append(icon(icons.choose));
  button.addEventListener("click", () => choose(new Set(), { choosing: !isChoosing }));
  for (const one of bulk.querySelectorAll("[data-act]")) one.addEventListener("click", () => act(one.dataset.act));
  bulk.querySelector("[data-none]").addEventListener("click", () => choose(new Set(), { choosing: false }));
  bulk.querySelector("[data-all]").addEventListener("click", () => choose(new Set(shown.filter(mayEnd).map((session) => session.id))));
}
viewer.addEventListener("click", (event) => {
  const back = event.target.closest(".viewer-back");
  if (!back || event.metaKey || event.ctrlKey) return;
  event.preventDefault();
  history.pushState(null, "", `/sandboxes${searchOf(feed.filter)}`);
  selectionChanged();
});
setInterval(() => list.tick(serverNow()), 1000);
setInterval(refresh, ORDER_EVERY_MS);

feed.filter = filterFrom(location.search);
bar.show(feed.filter);
// The page brings the session that its address names: the stream waits for no question.
if (viewer.dataset.known) live.accept(JSON.parse(viewer.dataset.known));
viewer.querySelector(".cover-icon").append(icon(icons.screen));
refresh();
live.start();
