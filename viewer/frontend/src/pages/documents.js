// The Documents page: the list, and the tray over it. The address says which document is open and what is filtered.

import "../header.js";
import "../documents/document-list.js";
import "../documents/document-tray.js";
import { setText } from "../dom.js";
import { Live } from "../live.js";
import { followLive } from "../needing.js";

const TITLE = "Documents · Deskfleet";
const FILTERED_AFTER_MS = 300;
const list = document.querySelector("document-list");
const tray = document.querySelector("document-tray");
const form = document.querySelector("#documents-filter");
const count = document.querySelector("#documents-count");
const live = new Live({ withList: false });
let timer = 0;

const openId = () => /^\/documents\/([\w-]+)$/.exec(location.pathname)?.[1] ?? null;
const address = (id) => `/documents${id ? `/${id}` : ""}${location.search}`;

function filters() {
  return Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value).trim()]));
}

function filter() {
  const wanted = Object.fromEntries(Object.entries(filters()).filter(([, value]) => value));
  const search = new URLSearchParams(wanted).toString();
  history.replaceState(null, "", `${location.pathname}${search ? `?${search}` : ""}`);
  list.wanted = wanted;
}

function readFilters() {
  const given = new URLSearchParams(location.search);
  for (const field of form.elements) field.value = given.get(field.name) ?? "";
  list.wanted = filters();
}

/** The tray as the address has it. */
function follow() {
  const id = openId();
  if (id) tray.show(list.documents, id);
  else tray.close();
  renderTitle();
}

function renderTitle() {
  const shown = list.documents.find((one) => one.id === openId());
  document.title = shown ? `${shown.title} · ${TITLE}` : TITLE;
}

function go(id) {
  if (openId() !== id) history.pushState(null, "", address(id));
  follow();
}

list.addEventListener("open", (event) => go(event.detail));
list.addEventListener("change", () => {
  setText(count, list.loaded ? `${list.documents.length}${list.hasMore ? "+" : ""}` : "");
  tray.documents = list.documents;
  renderTitle();
});
tray.addEventListener("choose", (event) => go(event.detail));
tray.addEventListener("close", () => go(null));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(filter, FILTERED_AFTER_MS);
});
addEventListener("popstate", follow);
list.live = live;
tray.live = live;
readFilters();
follow();
followLive(live);
live.start();
