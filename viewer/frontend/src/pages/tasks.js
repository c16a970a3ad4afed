// The Tasks page: what agents work on, and how it stands.

import { call, goToSignIn } from "../api.js";
import { taskPage } from "../documents/document.js";
import { badge, element, setText } from "../dom.js";
import "../header.js";
import { Live } from "../live.js";
import { followLive } from "../needing.js";
import { when } from "../times.js";

/**
 * @typedef {object} Task as in the API
 * @property {string} id
 * @property {string|null} title
 * @property {string|null} agent_id
 * @property {number} desktops
 * @property {number} running
 * @property {number} documents
 * @property {string} active_at
 */

// Events come in bursts, and each of them may change what a row says.
const ASK_AGAIN_AFTER_MS = 1000;
const table = document.querySelector("#tasks-table");
const body = table.querySelector("tbody");
const note = document.querySelector("#tasks-note");
const count = document.querySelector("#tasks-count");
const paging = document.querySelector("#tasks-paging");
const older = paging.querySelector("button");
const live = new Live({ withList: false });

/** @type {Map<string, Task>} */
const tasks = new Map();
let cursor = null;
let pages = 1;
let timer = 0;
let problem = null;
let loaded = false;

async function load() {
  try {
    const found = new Map();
    let next = null;
    for (let page = 0; page < pages; page++) {
      const answer = await call("GET", `/api/v1/tasks?limit=100${next ? `&cursor=${encodeURIComponent(next)}` : ""}`);
      for (const task of answer.items) found.set(task.id, task);
      next = answer.next_cursor;
      if (!next) break;
    }
    tasks.clear();
    for (const [id, task] of found) tasks.set(id, task);
    cursor = next;
    problem = null;
  } catch (failed) {
    if (failed.status === 401) return goToSignIn();
    problem = failed;
  }
  loaded = true;
  render();
}

function loadSoon() {
  timer ||= setTimeout(() => {
    timer = 0;
    load();
  }, ASK_AGAIN_AFTER_MS);
}

const cell = (label, ...children) => element("td", { role: "cell", "data-label": label }, ...children);

/** @param {Task} task */
function desktopsOf(task) {
  if (!task.desktops) return cell("Desktops", element("span", { class: "none" }, "None"));
  const all = task.desktops === 1 ? "1 in all" : `${task.desktops} in all`;
  return cell("Desktops", element("span", { class: "task-desktop-count" }, task.running ? badge({ tone: "good", label: `${task.running} running` }) : null, element("span", {}, all)));
}

/** @param {Task} task */
function row(task) {
  const name = task.title || task.id;
  return element("tr", { role: "row", "data-task": task.id },
    element("th", { role: "rowheader", scope: "row" },
      element("a", { class: "task-link", href: taskPage(task.id), dir: "auto" }, name),
      task.title && element("span", { class: "table-sub mono", dir: "auto" }, task.id)),
    element("td", { role: "cell", "data-label": "Agent", "data-empty": task.agent_id ? null : "true" }, element("span", { dir: "auto" }, task.agent_id ?? "")),
    desktopsOf(task),
    cell("Documents", String(task.documents)),
    cell("Last activity", when(task.active_at)));
}

function render() {
  const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.task : null;
  body.replaceChildren(...[...tasks.values()].map(row));
  if (focused) [...body.children].find((one) => one.dataset.task === focused)?.querySelector("a")?.focus();
  table.hidden = tasks.size === 0;
  note.hidden = tasks.size > 0;
  const state = problem ? "error" : loaded ? "empty" : "loading";
  for (const part of note.children) part.hidden = part.dataset.for !== state;
  if (problem) setText(note.querySelector("[data-problem]"), problem.message);
  setText(count, loaded ? `${tasks.size}${cursor ? "+" : ""}` : "");
  paging.hidden = !cursor;
}

older.addEventListener("click", async () => {
  older.disabled = true;
  pages++;
  await load();
  older.disabled = false;
});
live.addEventListener("change", loadSoon);
live.addEventListener("document", loadSoon);
live.addEventListener("stale", load);
followLive(live);
render();
live.start();
