// The Hosts page: what carries the desktops, asked for again every few seconds.

import { call, goToSignIn, serverNow } from "../api.js";
import { badge, element, setText } from "../dom.js";
import "../header.js";
import { ago, exactly, inWords } from "../session.js";

/**
 * @typedef {object} Host as in the API
 * @property {string} name
 * @property {string[]} groups
 * @property {"unknown"|"ok"|"unreachable"} status
 * @property {string|null} detail
 * @property {string|null} last_seen_at
 * @property {number} used_desktops
 * @property {number} max_desktops
 * @property {{name: string, session_id: string|null, status: string|null, status_reason: string|null, wanted_backend: string, backend: string|null}[]} desktops
 * @property {string[]} warnings
 * @property {string|null} address
 */

const ASK_AGAIN_MS = 3000;
const BANNER_AFTER_MISSES = 2;
const GROUPS = { edge: "Edge", control: "Control", sandboxes: "Sandboxes", desktops: "Desktops" };
const BACKENDS = { kasmvnc: "KasmVNC", tigervnc: "TigerVNC", "kasmvnc-or-tigervnc": "KasmVNC or TigerVNC" };
const DESKTOP_TONES = { running: "good", creating: "busy", error: "bad" };

const table = document.querySelector("#hosts-table");
const body = table.querySelector("tbody");
const note = document.querySelector("#hosts-note");
const summary = document.querySelector("#hosts-summary");
const banner = document.querySelector("#banner");

/** @type {Map<string, {row: HTMLElement, shown: string, seen: HTMLElement}>} */
const rows = new Map();
let timer = 0;
let misses = 0;

// ---- one host ---------------------------------------------------------------------------------------------------

/** @param {Host} host */
function statusOf(host) {
  if (host.status === "unreachable") return { tone: "bad", label: "Unreachable" };
  if (host.status === "unknown") return { tone: "quiet", label: "Not seen yet" };
  return host.detail || host.warnings.length ? { tone: "warn", label: "Answers" } : { tone: "good", label: "Answers" };
}

function cell(label, ...children) {
  return element("td", { role: "cell", "data-label": label }, ...children);
}

/** Nothing here; a card leaves it out. */
function emptyCell(label, text) {
  return element("td", { role: "cell", "data-label": label, "data-empty": "true" }, element("span", { class: "none" }, text));
}

/** @param {Host} host */
function nameCell(host) {
  const groups = element("span", { class: "host-groups" }, ...host.groups.map((group) => element("span", { class: "chip" }, GROUPS[group] ?? group)));
  const address = host.address && element("span", { class: "host-address" }, host.address);
  return element("th", { role: "rowheader", scope: "row" }, element("span", { class: "host-name" }, host.name), groups, address);
}

/** @param {Host} host */
function statusCell(host) {
  const reasons = [host.detail, ...host.warnings].filter(Boolean).map((reason) => element("p", { class: "host-reason" }, inWords(reason)));
  return cell("Status", element("div", {}, badge(statusOf(host)), ...reasons));
}

/** @param {Host} host */
function roomCell(host) {
  if (!host.max_desktops) return emptyCell("On-demand desktops", "None here");
  const said = `${host.used_desktops} of ${host.max_desktops}`;
  const meter = element("progress", { class: "room", max: host.max_desktops, value: host.used_desktops, "aria-label": `${said} desktops in use` });
  meter.dataset.full = String(host.used_desktops >= host.max_desktops);
  return cell("On-demand desktops", element("div", { class: "host-room" }, element("span", { "aria-hidden": "true" }, said), meter));
}

/** "KasmVNC or TigerVNC → TigerVNC": what is wanted, then what runs, so that a fallback is seen. */
function backendOf(desktop) {
  const runs = desktop.backend ? BACKENDS[desktop.backend] : null;
  const wanted = BACKENDS[desktop.wanted_backend] ?? desktop.wanted_backend;
  if (runs === wanted) return { text: runs, differs: false };
  if (!runs) return { text: wanted, differs: false };
  // "KasmVNC or TigerVNC" is served by KasmVNC as wished, by TigerVNC only in its stead.
  const isAsWished = desktop.wanted_backend === "kasmvnc-or-tigervnc" && desktop.backend === "kasmvnc";
  return { text: `${wanted} → ${runs}`, differs: !isAsWished };
}

function desktopItem(desktop) {
  const backend = backendOf(desktop);
  const tone = DESKTOP_TONES[desktop.status] ?? "quiet";
  const name = desktop.session_id ? element("a", { href: `/sandboxes/${desktop.session_id}` }, desktop.name) : element("span", {}, desktop.name);
  const status = badge({ tone, label: inWords(desktop.status ?? "not seen yet") });
  const reason = desktop.status_reason && element("p", { class: "host-reason" }, inWords(desktop.status_reason));
  return element("li", {}, element("span", { class: "host-desktop" }, name, status), element("span", { class: "host-backend", "data-differs": String(backend.differs) }, backend.text), reason);
}

/** @param {Host} host */
function desktopsCell(host) {
  if (!host.desktops.length) return emptyCell("Persistent desktops", "None of yours");
  return cell("Persistent desktops", element("ul", { class: "host-desktops" }, ...host.desktops.map(desktopItem)));
}

// ---- all of them ------------------------------------------------------------------------------------------------

/** @param {Host} host */
function draw(host) {
  const { last_seen_at: lastSeen, ...rest } = host;
  const shown = JSON.stringify(rest);
  let entry = rows.get(host.name);
  if (!entry) rows.set(host.name, (entry = { row: element("tr", { role: "row", "data-host": host.name }), shown: "", seen: element("time", {}) }));
  if (entry.shown !== shown) {
    // A row is drawn anew only when it says something new; whoever is on a link in it stays there.
    const focused = entry.row.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    entry.row.replaceChildren(nameCell(host), statusCell(host), roomCell(host), desktopsCell(host), cell("Last seen", entry.seen));
    entry.shown = shown;
    if (focused) entry.row.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
  entry.seen.dateTime = lastSeen ?? "";
  entry.seen.title = lastSeen ? exactly(lastSeen) : "";
  // The worker writes only every half minute that nothing has changed.
  const silence = lastSeen ? serverNow() - Date.parse(lastSeen) : 0;
  setText(entry.seen, !lastSeen ? "never" : host.status === "ok" && silence < 45_000 ? "just now" : ago(silence));
  return entry.row;
}

/** @param {Host[]} hosts */
function drawAll(hosts) {
  const names = new Set(hosts.map((host) => host.name));
  for (const [name, entry] of rows) {
    if (names.has(name)) continue;
    entry.row.remove();
    rows.delete(name);
  }
  hosts.forEach((host, index) => {
    const row = draw(host);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  });
  const answering = hosts.filter((host) => host.status === "ok").length;
  const used = hosts.reduce((sum, host) => sum + host.used_desktops, 0);
  const room = hosts.reduce((sum, host) => sum + host.max_desktops, 0);
  setText(summary, [`${answering} of ${hosts.length} ${hosts.length === 1 ? "answers" : "answer"}`, room && `${used} of ${room} desktops in use`].filter(Boolean).join(" · "));
  table.hidden = false;
  note.hidden = true;
}

async function ask() {
  clearTimeout(timer);
  try {
    const { items } = await call("GET", "/api/v1/hosts");
    misses = 0;
    banner.hidden = true;
    drawAll(items);
  } catch (problem) {
    if (problem.status === 401) return goToSignIn();
    missed(problem);
  }
  if (!document.hidden) timer = setTimeout(ask, ASK_AGAIN_MS);
}

/** What was read stays; only after a second miss does a banner say that it may be old. */
function missed(problem) {
  misses += 1;
  if (table.hidden) {
    for (const part of note.children) part.hidden = part.dataset.for !== "error";
    setText(note.querySelector("[data-problem]"), problem.message);
  } else if (misses >= BANNER_AFTER_MISSES) {
    setText(banner.querySelector("span:last-child"), "Connection to the server lost. This is how the hosts were. Reconnecting…");
    banner.hidden = false;
  }
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
addEventListener("pageshow", (event) => event.persisted && ask());
ask();
