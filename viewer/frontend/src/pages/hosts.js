// The Hosts page: what carries the desktops, asked for again every few seconds.

import { call, goToSignIn, serverNow } from "../api.js";
import { confirmed } from "../dialogs.js";
import { badge, element, setText } from "../dom.js";
import "../header.js";
import { ago, exactly, inWords } from "../session.js";
import { toast } from "../toast.js";

/**
 * @typedef {object} Host as in the API
 * @property {string} name
 * @property {string[]} groups
 * @property {"unknown"|"ok"|"unreachable"} status
 * @property {string|null} detail
 * @property {string|null} last_seen_at
 * @property {string|null} since of its status
 * @property {number} own_sessions
 * @property {number} used_desktops
 * @property {number} max_desktops
 * @property {string} used_cpu `2000m`
 * @property {string|null} max_cpu
 * @property {string} used_memory `2048Mi`
 * @property {string|null} max_memory
 * @property {boolean} draining
 * @property {string|null} drained_at
 * @property {string|null} certificate_ends
 * @property {Report|null} report for admins of the fleet
 * @property {{name: string, session_id: string|null, status: string|null, status_reason: string|null, wanted_backend: string, backend: string|null}[]} desktops
 * @property {string[]} warnings
 * @property {string|null} address
 */

/**
 * @typedef {object} Report what the machine says of itself; bytes
 * @property {string} at
 * @property {number} load_1m
 * @property {number} cpus
 * @property {number} memory_total
 * @property {number} memory_available
 * @property {number} disk_total
 * @property {number} disk_free
 * @property {string} docker_version
 * @property {{running: number, paused: number, ended: number, broken: number}|null} containers
 * @property {string|null} hostwatch_version
 * @property {string|null} relay_version
 * @property {string|null} opensandbox_version
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
/** Whoever may drain hosts is shown their load, too. */
let isFleetAdmin = false;

// ---- one host ---------------------------------------------------------------------------------------------------

/** What is amiss with it. Draining is wanted, and has its own words. @param {Host} host */
const warningsOf = (host) => host.warnings.filter((warning) => !(host.draining && warning.startsWith("it is draining")));

/** @param {Host} host */
function statusOf(host) {
  if (host.status === "unreachable") return { tone: "bad", label: "Unreachable" };
  if (host.status === "unknown") return { tone: "quiet", label: "Not seen yet" };
  return host.detail || warningsOf(host).length ? { tone: "warn", label: "Answers" } : { tone: "good", label: "Answers" };
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
  const groups = element("span", { class: "host-groups" }, ...host.groups.map((group) => element("span", { class: "host-group" }, GROUPS[group] ?? group)));
  const address = host.address && element("span", { class: "host-address" }, host.address);
  return element("th", { role: "rowheader", scope: "row" }, element("span", { class: "host-name" }, host.name), groups, address);
}

/** @param {Host} host */
function statusCell(host) {
  const reasons = [host.detail, ...warningsOf(host)].filter(Boolean).map((reason) => element("p", { class: "host-reason" }, inWords(reason)));
  const since = host.status === "unreachable" && host.since ? element("p", { class: "host-reason" }, "Since ", timeOf(host.since), lastWords(host)) : null;
  const badges = element("span", { class: "host-badges" }, badge(statusOf(host)), host.draining && badge({ tone: "warn", label: isDrained(host) ? "Drained" : "Draining" }));
  return cell("Status", element("div", {}, badges, since, ...reasons, draining(host), drainButton(host)));
}

/** What is known of a host that is silent now. @param {Host} host */
function lastWords(host) {
  return host.used_desktops ? `. ${plural(host.used_desktops, "desktop")} may go on there; nothing is known of them until it answers.` : ".";
}

/** Today's by the clock alone. */
function timeOf(at) {
  const isToday = new Date(at).toDateString() === new Date(serverNow()).toDateString();
  const shown = new Date(at).toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
  return element("time", { datetime: at, title: exactly(at) }, shown);
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// ---- draining ---------------------------------------------------------------------------------------------------

const isDrained = (host) => host.draining && !host.used_desktops;

/** How far it is, and what it waits for. @param {Host} host */
function draining(host) {
  if (!host.draining) return null;
  if (isDrained(host)) return element("p", { class: "host-reason" }, "Nothing of Deskfleet's desktops runs on it any more. It gets none until draining is stopped.");
  const left = `${plural(host.used_desktops, "desktop")} still ${host.used_desktops === 1 ? "runs" : "run"}; new ones go to other hosts.`;
  if (!host.drained_at) return element("p", { class: "host-reason" }, left);
  return element("p", { class: "host-reason" }, `${left} The last one ends by `, timeOf(host.drained_at), " unless somebody renews it.");
}

/** @param {Host} host */
function drainButton(host) {
  if (!isFleetAdmin || !host.max_desktops) return null;
  const button = element("button", { type: "button", class: "button small", "data-focus": `drain-${host.name}` }, host.draining ? "Stop draining" : "Drain…");
  button.setAttribute("aria-label", host.draining ? `Stop draining ${host.name}` : `Drain ${host.name}`);
  button.addEventListener("click", () => askToDrain(host));
  return button;
}

/** @param {Host} host */
async function askToDrain(host) {
  const wanted = !host.draining;
  const goOn = host.used_desktops ? ` The ${plural(host.used_desktops, "desktop")} on it ${host.used_desktops === 1 ? "goes" : "go"} on until ${host.used_desktops === 1 ? "it ends" : "they end"}.` : "";
  const done = await confirmed({
    title: wanted ? `Drain ${host.name}?` : `Stop draining ${host.name}?`,
    text: wanted ? `New desktops go to other hosts from now on.${goOn}` : "It gets new desktops again from now on.",
    action: wanted ? "Drain" : "Stop draining",
    danger: false,
    act: async () => draw(await call("PUT", `/api/v1/hosts/${encodeURIComponent(host.name)}/draining`, { draining: wanted })),
  });
  if (!done) return;
  toast(wanted ? `${host.name} gets no new desktops.` : `${host.name} gets new desktops again.`);
  ask();
}

// ---- capacity and load ------------------------------------------------------------------------------------------

const cores = (millis) => parseInt(millis, 10) / 1000;
const gibibytes = (mebibytes) => parseInt(mebibytes, 10) / 1024;
const brief = (number) => (number >= 100 ? Math.round(number).toString() : (Math.round(number * 10) / 10).toString());

/** A line with its bar; without a limit only the line. */
function bar(name, used, most, unit) {
  const said = most === null ? `${brief(used)}${unit}` : `${brief(used)} of ${brief(most)}${unit}`;
  const line = element("span", { class: "bar-line" }, element("span", { class: "bar-name" }, name), element("span", {}, said));
  if (!most) return element("div", { class: "bar" }, line);
  const meter = element("progress", { class: "meter", max: most, value: Math.min(used, most), "aria-label": `${name}: ${said}` });
  if (used >= most) meter.dataset.tone = "busy";
  return element("div", { class: "bar" }, line, meter);
}

/** @param {Host} host */
function roomCell(host) {
  if (!host.max_desktops) return emptyCell("On-demand desktops", "None here");
  const own = host.own_sessions ? element("a", { class: "host-own", href: `/sandboxes?host=${encodeURIComponent(host.name)}` }, `${host.own_sessions} of yours`) : null;
  const parts = [bar("Desktops", host.used_desktops, host.max_desktops, "")];
  if (host.max_cpu) parts.push(bar("CPU", cores(host.used_cpu), cores(host.max_cpu), " cores"));
  if (host.max_memory) parts.push(bar("Memory", gibibytes(host.used_memory), gibibytes(host.max_memory), " GiB"));
  return cell("On-demand desktops", element("div", { class: "host-room" }, ...parts, own));
}

const REPORT_IS_OLD_MS = 60_000;

/** What the machine itself says; for admins of the fleet. @param {Host} host */
function machineCell(host) {
  const report = host.report;
  if (!report) return emptyCell("Machine", "Says nothing");
  const gib = (bytes) => bytes / 2 ** 30;
  const age = serverNow() - Date.parse(report.at);
  const old = age > REPORT_IS_OLD_MS ? element("p", { class: "host-reason" }, "As it was ", timeOf(report.at), ".") : null;
  return cell(
    "Machine",
    element(
      "div",
      { class: "host-room" },
      bar("Load", report.load_1m, report.cpus, " cores"),
      bar("Memory", gib(report.memory_total - report.memory_available), gib(report.memory_total), " GiB"),
      bar("Disk", gib(report.disk_total - report.disk_free), gib(report.disk_total), " GiB"),
      containersOf(report),
      versionsOf(host),
      old,
    ),
  );
}

/** @param {Report} report */
function containersOf(report) {
  if (!report.containers) return null;
  const { running, paused, ended, broken } = report.containers;
  const said = [`${running} running`, paused && `${paused} paused`, ended && `${ended} ended`, broken && `${broken} broken`].filter(Boolean).join(", ");
  return element("p", { class: "host-fact", "data-bad": String(broken > 0) }, `Containers: ${said}`);
}

/** @param {Host} host */
function versionsOf(host) {
  const report = host.report;
  const facts = [
    ["OpenSandbox", report.opensandbox_version],
    ["Relay", report.relay_version],
    ["Hostwatch", report.hostwatch_version],
    ["Docker", report.docker_version],
  ].filter(([, version]) => version);
  const rows = facts.map(([name, version]) => element("div", {}, element("dt", {}, name), element("dd", {}, version)));
  if (host.certificate_ends) {
    const ends = new Date(host.certificate_ends).toLocaleDateString([], { dateStyle: "medium" });
    rows.push(element("div", {}, element("dt", {}, "Certificate"), element("dd", {}, "until ", element("time", { datetime: host.certificate_ends, title: exactly(host.certificate_ends) }, ends))));
  }
  const details = element("details", { class: "host-versions" }, element("summary", { "data-focus": `versions-${host.name}` }, "Versions"), element("dl", {}, ...rows));
  details.open = openVersions.has(host.name);
  details.addEventListener("toggle", () => (details.open ? openVersions.add(host.name) : openVersions.delete(host.name)));
  return details;
}

/** Hosts whose versions are unfolded: a row that is drawn anew leaves them so. @type {Set<string>} */
const openVersions = new Set();

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
    const focused = entry.row.contains(document.activeElement) ? document.activeElement : null;
    const [name, value] = focused ? (focused.dataset.focus ? ["data-focus", focused.dataset.focus] : ["href", focused.getAttribute("href")]) : [];
    const cells = [nameCell(host), statusCell(host), roomCell(host), isFleetAdmin && machineCell(host), desktopsCell(host), cell("Last seen", entry.seen)];
    entry.row.replaceChildren(...cells.filter(Boolean));
    entry.shown = shown;
    if (value) entry.row.querySelector(`[${name}="${CSS.escape(value)}"]`)?.focus();
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

let known = false;

/** Once: what this page offers hangs on it. */
async function whoAmI() {
  if (known) return;
  const me = await call("GET", "/api/v1/me");
  known = true;
  isFleetAdmin = me.role === "admin" && me.scopes.includes("fleet");
  document.querySelector("#machine-head").hidden = !isFleetAdmin;
}

async function ask() {
  clearTimeout(timer);
  try {
    const [{ items }] = await Promise.all([call("GET", "/api/v1/hosts"), whoAmI()]);
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
