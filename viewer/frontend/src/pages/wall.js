// The wall: all running desktops as they are now, and up to four of them large.

import { serverNow } from "../api.js";
import { icon, setText } from "../dom.js";
import "../header.js";
import * as icons from "../icons.js";
import { Live } from "../live.js";
import { followLive } from "../needing.js";
import { thumbnails } from "../thumbnails.js";
import { Awake } from "../wall/awake.js";
import { addressOf, choiceIn, enlarge, listOf, putAt, remove, withLayout } from "../wall/choice.js";
import { letDrag } from "../wall/dragging.js";
import { Grid } from "../wall/grid.js";
import { MOST_TILES, arranged, counted, foremost, isOnWall, isPast, largestTiles, matches, roomFor } from "../wall/order.js";
import { Pins, keepSize, usualSize } from "../wall/pins.js";
import { Stage } from "../wall/stage.js";

const BANNER_AFTER_MS = 2500;
/** Elapsed times change the order, too. */
const LOOK_AGAIN_MS = 3000;
/** What is around the tiles then, in pixels (`.wall-scroll`). */
const TV_FRAME = { x: 32, y: 24 };
const WIDTHS = { s: 240, m: 320, l: 480 };

/** There the whole page scrolls (wall.css). */
const narrow = matchMedia("(max-width: 860px)");

const main = document.querySelector("#wall");
const note = document.querySelector("#wall-note");
const banner = document.querySelector("#banner");
const summary = document.querySelector("#wall-summary");
const tiles = document.querySelector("#wall-tiles");
const more = document.querySelector("#wall-more");
const fullscreen = document.querySelector("#wall-fullscreen");
const leave = document.querySelector("#wall-leave");
const clear = document.querySelector("#wall-clear");
const selects = { host: document.querySelector("#wall-host"), task: document.querySelector("#wall-task"), agent: document.querySelector("#wall-agent"), group: document.querySelector("#wall-group") };

const usual = { size: usualSize() };
const live = new Live({ withList: true });
const pins = new Pins();
const awake = new Awake();
const feed = thumbnails();
const grid = new Grid(tiles, live, pins);
const stage = new Stage(document.querySelector("#wall-stage"), live, (id) => choose(remove(choice, id)));

let choice = choiceIn(location.search, usual);
let order = "";
let bannerTimer = 0;

// ---- what is chosen ---------------------------------------------------------------------------------------------

/** @param {import("../wall/choice.js").Choice} wanted */
function choose(wanted, { step = false } = {}) {
  choice = wanted;
  const address = addressOf(choice, usual);
  if (address !== location.pathname + location.search) history[step ? "pushState" : "replaceState"](null, "", address);
  show();
}

function toggle(id) {
  choose(choice.live.includes(id) ? remove(choice, id) : enlarge(choice, id, stage.byAge));
}

function put({ id, place }) {
  choose(putAt(choice, id, place));
}

function pin({ id }) {
  pins.toggle(id);
  draw({ move: true });
}

// ---- what is shown ----------------------------------------------------------------------------------------------

function show() {
  stage.show(choice);
  main.dataset.size = choice.size;
  main.dataset.live = String(choice.live.length > 0);
  document.body.dataset.tv = String(choice.tv);
  feed.width = Math.min(640, Math.round(WIDTHS[choice.size] * Math.min(2, devicePixelRatio)));
  awake.wanted = choice.tv;
  for (const [name, value] of [["layout", choice.layout], ["size", choice.size]]) main.querySelector(`[name=${name}][value="${value}"]`).checked = true;
  draw({ move: true });
}

function draw({ move = false } = {}) {
  const now = serverNow();
  live.forget((session) => isPast(session, now) && !choice.live.includes(session.id));
  const there = live.loaded ? [...live.sessions.values()].filter((session) => isOnWall(session, now)) : [];
  offer(there);
  const matching = there.filter((session) => matches(session, choice));
  const shown = foremost(matching, pins, now, room());
  const groups = arranged(shown, choice, pins, now);
  // Who comes and goes is shown at once; who only changes places waits until nobody is about to click.
  const who = JSON.stringify(shown.map(({ id }) => id).sort());
  if (move || who !== order || !grid.isHandled) {
    order = who;
    grid.show(groups, choice.live);
  }
  const { words, pressing } = counted(matching, now);
  setText(summary, live.loaded ? words : "");
  document.title = [pressing && `${pressing} to look at`, "Wall", "Deskfleet"].filter(Boolean).join(" · ");
  clear.hidden = !["host", "task", "agent"].some((name) => choice[name]);
  renderNote(there.length, shown.length);
  renderMore(matching.length - shown.length);
  fit(shown.length);
}

/** In the mode for a screen nobody scrolls, all tiles fit on it where that leaves something to see. */
function fit(count) {
  if (!choice.tv) return;
  const { clientWidth, clientHeight } = tiles.parentElement;
  const { columns, tile } = largestTiles(count, clientWidth - TV_FRAME.x, clientHeight - TV_FRAME.y);
  tiles.style.setProperty("--columns", String(columns));
  tiles.style.setProperty("--fitting", `${tile}px`);
}

function renderNote(known, shown) {
  note.hidden = shown > 0;
  if (note.hidden) return;
  note.dataset.state = !live.loaded ? (live.problem ? "error" : "loading") : known ? "filtered" : "empty";
  for (const part of note.children) part.hidden = part.dataset.for !== note.dataset.state;
  if (live.problem) setText(note.querySelector("[data-problem]"), live.problem.message);
}

function room() {
  const { clientWidth, clientHeight } = tiles.parentElement;
  return choice.tv && !narrow.matches ? roomFor(clientWidth - TV_FRAME.x, clientHeight - TV_FRAME.y) : MOST_TILES;
}

/** What there is no room for is said, and where it is. */
function renderMore(count) {
  more.hidden = count === 0;
  if (count === 0) return;
  setText(more, `${count} more in the list`);
  more.href = listOf(choice);
}

/** The names that there are, and the one that is chosen, whether it is there or not. */
function offer(sessions) {
  const fields = { host: "host", task: "task_id", agent: "agent_id" };
  for (const [name, field] of Object.entries(fields)) {
    const names = [...new Set([...sessions.map((session) => session[field]), choice[name]].filter(Boolean))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    const select = selects[name];
    if (select.dataset.names !== JSON.stringify(names)) {
      select.dataset.names = JSON.stringify(names);
      select.replaceChildren(select.options[0], ...names.map((one) => new Option(one, one)));
    }
    select.value = choice[name];
    select.disabled = names.length === 0;
  }
  selects.group.value = choice.group;
}

let drawing = 0;
function drawSoon() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    draw();
  });
}

// ---- connection -------------------------------------------------------------------------------------------------

function stateChanged() {
  clearTimeout(bannerTimer);
  const text = bannerText();
  main.dataset.silent = String(Boolean(text));
  if (!text) banner.hidden = true;
  else if (live.state === "offline") showBanner(text);
  // A restart of the server takes less than this.
  else bannerTimer = setTimeout(() => showBanner(bannerText() || text), BANNER_AFTER_MS);
}

function bannerText() {
  if (live.state === "offline") return "You are offline. This is how the desktops were when the connection was lost.";
  if (live.state === "reconnecting") return "Connection to the server lost. This is how the desktops were. Reconnecting…";
  return feed.isSilent ? "The pictures do not come. This is how the desktops were. Trying again…" : "";
}

function showBanner(text) {
  setText(banner.querySelector("span:last-child"), text);
  banner.hidden = false;
}

// ---- a screen that nobody sits at -------------------------------------------------------------------------------

async function toTv() {
  choose({ ...choice, tv: true });
  try {
    await document.documentElement.requestFullscreen({ navigationUI: "hide" });
  } catch {
    // The browser forbids it; the page is without its frame all the same.
  }
}

function fromTv() {
  if (document.fullscreenElement === document.documentElement) document.exitFullscreen().catch(() => {});
  choose({ ...choice, tv: false });
}

let handTimer = 0;
function handMoved() {
  document.body.dataset.hand = "true";
  clearTimeout(handTimer);
  handTimer = setTimeout(() => (document.body.dataset.hand = "false"), 2500);
}

// ---- all together -----------------------------------------------------------------------------------------------

fullscreen.append(icon(icons.fullscreen));
leave.append(icon(icons.shrink));
fullscreen.addEventListener("click", toTv);
leave.addEventListener("click", fromTv);
document.addEventListener("fullscreenchange", () => document.fullscreenElement || (choice.tv && fromTv()));
addEventListener("keydown", (event) => event.key === "Escape" && choice.tv && !document.fullscreenElement && !document.querySelector("dialog[open]") && fromTv());
addEventListener("pointermove", handMoved, { passive: true });
addEventListener("resize", () => draw());
tiles.addEventListener("open", (event) => toggle(event.detail));
grid.addEventListener("put", (event) => put(event.detail));
grid.addEventListener("pin", (event) => pin(event.detail));
letDrag({ tiles, area: document.querySelector("#wall-area"), large: () => choice.live.length, put: (id, place) => put({ id, place }) });
for (const [name, select] of Object.entries(selects)) select.addEventListener("change", () => choose({ ...choice, [name]: select.value }));
main.addEventListener("change", ({ target }) => {
  if (target.name === "layout") choose(withLayout(choice, Number(target.value)));
  if (target.name === "size") {
    keepSize(target.value);
    choose({ ...choice, size: target.value });
  }
});
for (const button of document.querySelectorAll("[data-clears]")) button.addEventListener("click", () => choose({ ...choice, host: "", task: "", agent: "" }));
addEventListener("popstate", () => choose(choiceIn(location.search, usual)));
live.addEventListener("change", drawSoon);
live.addEventListener("state", stateChanged);
followLive(live);
feed.addEventListener("state", stateChanged);
setInterval(drawSoon, LOOK_AGAIN_MS);

show();
live.start();
