// How many desktops need a person, on every page: in its tab and in the header. Asked for now and then, also by a tab that
// nobody looks at: that is the one that must call; and at once where the page hears of a change.

import { call } from "./api.js";
import { element, setText } from "./dom.js";
import { showTabState } from "./tab-state.js";

const ASK_EVERY_MS = 30_000;
const SOON_MS = 150;
const MISSES_UNTIL_AWAY = 2;
// More than nine are "9+".
const COUNTED = 10;

let timer = 0;
let misses = 0;
/** The page has a stream, which knows sooner whether the server answers. */
let hasStream = false;
/** Not in a frame of another page, which has no navigation. */
let isAsked = false;

export function watchNeeding() {
  isAsked = true;
  addEventListener("pageshow", (event) => event.persisted && ask());
  document.addEventListener("visibilitychange", () => !document.hidden && later(SOON_MS));
  // After what the page itself needs first.
  later(1000);
}

/** Also at once, and with the state of the stream. @param {import("./live.js").Live} live */
export function followLive(live) {
  hasStream = true;
  let known = "";
  live.addEventListener("state", () => showTabState({ connection: live.state }));
  live.addEventListener("change", () => {
    const calling = [...live.sessions.values()].filter((session) => session.help).map((session) => session.id);
    const now = calling.sort().join();
    if (!isAsked || now === known) return;
    known = now;
    later(SOON_MS);
  });
}

function later(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(ask, milliseconds);
}

async function ask() {
  clearTimeout(timer);
  try {
    const { items } = await call("GET", `/api/v1/sessions?help=true&limit=${COUNTED}`);
    misses = 0;
    showNeeding(items.length);
    if (!hasStream) showTabState({ connection: "live" });
  } catch (problem) {
    // Whoever may not list sessions, or is signed out, has nothing to be told; the page says the latter itself.
    if (problem.status === 401 || problem.status === 403) return;
    misses += 1;
    if (!hasStream && misses >= MISSES_UNTIL_AWAY) showTabState({ connection: "offline" });
  }
  later(ASK_EVERY_MS);
}

function showNeeding(needing) {
  showTabState({ needing });
  const link = document.querySelector('.top-nav [data-place="sandboxes"]');
  if (!link) return;
  let count = link.querySelector(".count");
  if (!count) link.append((count = element("span", { class: "count", "data-tone": "warn" })));
  setText(count, needing ? (needing < COUNTED ? String(needing) : "9+") : "");
  if (needing) link.title = needing === 1 ? "1 desktop needs a person" : `${needing < COUNTED ? needing : "More than 9"} desktops need a person`;
  else link.removeAttribute("title");
}
