// The Sandboxes page: every session of the tenant beside one large viewer.

import { goToSignIn, serverNow } from "../api.js";
import { badge, element, setTag, setText } from "../dom.js";
import "../header.js";
import { Live } from "../live.js";
import { followLive } from "../needing.js";
import { NewDesktopDialog } from "../new-desktop.js";
import "../viewer/sandbox-viewer.js";
import { ago, backendOf, badgeOf, exactly, isOver, nameOf, nextEnd } from "../session.js";

const TITLE = "Sandboxes · Deskfleet";
const BANNER_AFTER_MS = 1500;
const wide = matchMedia("(min-width: 861px)");

const page = document.querySelector(".sandboxes");
const list = document.querySelector("#session-list");
const note = document.querySelector("#list-note");
const count = document.querySelector("#list-count");
const older = document.querySelector("#load-older");
const banner = document.querySelector("#banner");
const viewer = document.querySelector("sandbox-viewer");
const live = new Live({ withList: true });
const dialog = document.querySelector("#new-desktop") && new NewDesktopDialog(document.querySelector("#new-desktop"), live);

/** @type {Map<string, ReturnType<typeof makeRow>>} */
const rows = new Map();
let onlyActive = false;
let bannerTimer = 0;
/** The session shown although the address names none: the newest active one, until somebody chooses. */
let impliedId = null;

// ---- selection: the address is the truth ------------------------------------------------------------------------

const chosenId = () => /^\/sandboxes\/([\w-]+)$/.exec(location.pathname)?.[1] ?? null;
const shownId = () => chosenId() ?? (wide.matches ? impliedId : null);

function select(id) {
  if (chosenId() !== id) history.pushState(null, "", `/sandboxes/${id}`);
  selectionChanged();
}

function selectionChanged() {
  const id = shownId();
  page.dataset.view = chosenId() ? "viewer" : "list";
  if (id) viewer.setAttribute("session", id);
  else viewer.removeAttribute("session");
  for (const [rowId, row] of rows) row.mark(rowId === id);
  renderTitle();
}

function renderTitle() {
  const session = live.sessions.get(shownId() ?? "");
  document.title = session ? `${badgeOf(session).label} · ${nameOf(session)} · Deskfleet` : TITLE;
}

/** With nothing chosen, the first active session opens by itself, and a new one when that has ended. */
function updateImplied() {
  const implied = live.sessions.get(impliedId ?? "");
  if (implied && !isOver(implied)) return;
  const first = inOrder().find((session) => !isOver(session));
  if (first) impliedId = first.id;
  else if (!implied) impliedId = null;
}

// ---- list -------------------------------------------------------------------------------------------------------

/** Live ones first, then by age; a row never jumps because of a mere update. */
function inOrder() {
  return [...live.sessions.values()].sort((a, b) => Number(isOver(a)) - Number(isOver(b)) || Date.parse(b.created_at) - Date.parse(a.created_at) || (a.id < b.id ? 1 : -1));
}

function makeRow(session) {
  const link = element("a", { class: "row", href: `/sandboxes/${session.id}` });
  const id = element("span", { class: "row-id" });
  const name = element("span", { class: "row-name" }, id);
  const pill = element("span", { class: "row-status" });
  const image = element("span", { class: "row-image" });
  const work = element("span", { class: "row-work" });
  const age = element("time", { class: "row-age" });
  const end = element("span", { class: "row-end" });
  link.append(element("span", { class: "row-line" }, name, pill), element("span", { class: "row-line" }, image, age), element("span", { class: "row-line" }, work, end));
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    select(session.id);
  });
  const item = element("li", { "data-session": session.id }, link);
  return {
    item,
    link,
    mark: (current) => (current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")),
    tick(now, latest) {
      setText(age, ago(now - Date.parse(latest.created_at)));
      setText(end, nextEnd(latest, now));
    },
    update(now, latest) {
      const shown = badgeOf(latest);
      setText(id, nameOf(latest));
      setTag(name, backendOf(latest));
      if (pill.textContent !== shown.label) pill.replaceChildren(badge(shown));
      setText(image, [latest.kind === "desktop" ? null : latest.image, latest.host].filter(Boolean).join(" · "));
      setText(work, [latest.task_id && `Task ${latest.task_id}`, latest.agent_id && `Agent ${latest.agent_id}`].filter(Boolean).join(" · "));
      age.dateTime = latest.created_at;
      age.title = exactly(latest.created_at);
      this.tick(now, latest);
      item.dataset.over = String(isOver(latest));
      link.title = latest.error_message ?? "";
    },
  };
}

function renderList() {
  const now = serverNow();
  // A deep link's session may be known before the list is: one row alone would look like the whole list.
  const ordered = live.loaded ? inOrder() : [];
  const active = ordered.filter((session) => !isOver(session));
  const shown = onlyActive ? active : ordered;
  const wanted = new Set(shown.map((session) => session.id));
  for (const [id, row] of rows) {
    if (wanted.has(id)) continue;
    row.item.remove();
    rows.delete(id);
  }
  shown.forEach((session, index) => {
    let row = rows.get(session.id);
    if (!row) rows.set(session.id, (row = makeRow(session)));
    row.update(now, session);
    // Moving a node that is where it should be would take the focus from it.
    if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null);
  });
  setText(count, live.loaded ? `${active.length} active` : "");
  older.hidden = !live.olderCursor || onlyActive;
  renderNote(ordered.length, shown.length);
}

function renderNote(known, shown) {
  note.hidden = shown > 0;
  if (!note.hidden) note.dataset.state = !live.loaded ? (live.problem ? "error" : "loading") : known ? "filtered" : "empty";
  for (const part of note.children) part.hidden = part.dataset.for !== note.dataset.state;
  if (live.problem) setText(note.querySelector("[data-problem]"), live.problem.message);
}

function refresh() {
  updateImplied();
  renderList();
  selectionChanged();
}

// Events come in bursts; one drawing per frame is enough.
let drawing = 0;
function refreshSoon() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    refresh();
  });
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

// ---- what people do ---------------------------------------------------------------------------------------------

function moveFocus(event) {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const links = [...list.querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  const next = links[at + (event.key === "ArrowDown" ? 1 : -1)];
  if (at < 0 || !next) return;
  event.preventDefault();
  next.focus();
}

function filterChanged(event) {
  onlyActive = event.target.value === "active";
  refresh();
}

async function loadOlder() {
  older.disabled = true;
  try {
    await live.loadOlder();
  } catch (problem) {
    if (problem.status === 401) return goToSignIn();
    showBanner(problem.message);
  } finally {
    older.disabled = false;
  }
}

live.addEventListener("change", refreshSoon);
live.addEventListener("state", stateChanged);
list.addEventListener("keydown", moveFocus);
document.querySelector("#list-filter").addEventListener("change", filterChanged);
older.addEventListener("click", loadOlder);
addEventListener("popstate", selectionChanged);
wide.addEventListener("change", selectionChanged);
for (const button of document.querySelectorAll("[data-opens=new-desktop]")) button.addEventListener("click", () => dialog.open());
dialog?.addEventListener("created", (event) => select(event.detail.id));
viewer.addEventListener("click", (event) => {
  const back = event.target.closest(".viewer-back");
  if (!back || event.metaKey || event.ctrlKey) return;
  event.preventDefault();
  history.pushState(null, "", "/sandboxes");
  selectionChanged();
});
setInterval(() => {
  const now = serverNow();
  for (const [id, row] of rows) {
    const session = live.sessions.get(id);
    if (session) row.tick(now, session);
  }
}, 1000);

viewer.live = live;
selectionChanged();
renderList();
followLive(live);
live.start();
