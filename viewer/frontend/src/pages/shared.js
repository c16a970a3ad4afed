// The page of a visitor: one desktop to watch, until the link is over or the desktop is.

import { element } from "../dom.js";
import { SharedLive } from "../shared-live.js";
import "../viewer/sandbox-viewer.js";
import { badgeOf } from "../session.js";

const viewer = document.querySelector("sandbox-viewer");
const main = viewer.parentElement;
const until = new Date(main.dataset.until);
const live = new SharedLive(viewer.getAttribute("session"));

viewer.setAttribute("note", `shared with you until ${inShort(until)}`);
viewer.addEventListener("sessionchange", ({ detail: session }) => {
  document.title = `${badgeOf(session).label} · A shared desktop · Deskfleet`;
});
live.addEventListener("over", ({ detail: problem }) => {
  document.title = `${problem.title} · Deskfleet`;
  main.className = "sorry";
  main.replaceChildren(element("div", { class: "sorry-said", role: "alert" }, element("h1", {}, problem.title), element("p", {}, problem.message)));
});
viewer.live = live;
live.start();

/** The time alone when it is today. */
function inShort(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}
