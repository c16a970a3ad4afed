// One task: its desktops as they come and go, its documents beside. The same on its page and in the panel that others show.

import "../header.js";
import "../documents/document-list.js";
import "../documents/document-tray.js";
import { badge, element, setText } from "../dom.js";
import { Live } from "../live.js";
import { followLive } from "../needing.js";
import { nameOf } from "../session.js";
import { TaskDesktops } from "../tasks/desktops.js";
import "../viewer/sandbox-viewer.js";

const part = (id) => document.querySelector(`#task-${id}`);
const page = document.querySelector(".task");
const documents = document.querySelector("document-list");
const tray = document.querySelector("document-tray");
const name = part("title").textContent;
const live = new Live({ withList: false });
const desktops = new TaskDesktops({
  taskId: page.dataset.task,
  live,
  parts: { list: part("live"), ended: part("ended"), endedList: part("ended-list"), endedCount: part("ended-count"), olderBox: part("older"), older: part("older").querySelector("button") },
});

function desktopsChanged() {
  const { active, ended, loaded, problem } = desktops;
  const running = active.filter((session) => session.status === "running").length;
  part("loading").hidden = loaded;
  part("empty").hidden = !loaded || active.length > 0 || Boolean(problem);
  part("problem").hidden = !problem;
  setText(part("problem"), problem ? problem.message : "");
  setText(part("count"), loaded ? `${running} running, ${active.length + ended.length} in all` : "");
  renderAttention(running);
}

function renderAttention(running) {
  const needs = desktops.attention;
  const box = part("attention");
  const said = needs ? `${needs.label}|${needs.why}|${needs.session.id}` : "";
  if (box.dataset.said !== said) {
    box.dataset.said = said;
    box.replaceChildren(...(needs ? [badge(needs), element("a", { class: "task-attention", href: `#${needs.session.id}`, dir: "auto" }, needs.why || nameOf(needs.session))] : []));
  }
  document.title = `${needs ? needs.label : running ? `${running} running` : "Quiet"} · ${name} · Deskfleet`;
}

part("attention").addEventListener("click", (event) => {
  const id = event.target.closest("a")?.hash.slice(1);
  if (!id) return;
  event.preventDefault();
  document.querySelector(`[data-session="${CSS.escape(id)}"]`)?.scrollIntoView({ block: "nearest" });
});

desktops.addEventListener("change", desktopsChanged);
documents.addEventListener("open", (event) => tray.show(documents.documents, event.detail));
documents.addEventListener("change", () => (tray.documents = documents.documents));
documents.live = live;
tray.live = live;
documents.wanted = { task_id: page.dataset.task };
followLive(live);
live.start();
