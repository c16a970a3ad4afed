// Leads on to a service, or to a desktop's own page in a tab of its own.

import { Problem, call, goToSignIn } from "../api.js";
import { goThrough, ticketFrom } from "../entering.js";
import "../header.js";

// Whoever comes back this soon was not let in there: the browser keeps no cookie, and going on by itself would go
// round for ever.
const TOO_SOON_MS = 10_000;

const { entries, devtools } = document.querySelector("[data-entries]").dataset;
const heading = document.querySelector("#enter-heading");
const detail = document.querySelector("#enter-detail");
const again = document.querySelector("#enter-again");
const mark = `entered ${entries}`;

async function enter() {
  again.hidden = true;
  heading.textContent = "Opening…";
  detail.textContent = "";
  try {
    const { wanted, next } = devtools ? await toDevTools() : { next: new URLSearchParams(location.search).get("next") ?? "/" };
    const entry = await ticketFrom(entries, wanted);
    sessionStorage.setItem(mark, String(Date.now()));
    goThrough(entry, { next });
  } catch (problem) {
    if (problem.status === 401) return goToSignIn();
    stop("It could not be opened", problem.message, "Try again");
  }
}

/** What to ask a ticket for, and where DevTools open on the first of the browser's pages. */
async function toDevTools() {
  const { available, why_not, targets } = await call("GET", devtools);
  if (!available || !targets.length) throw new Problem(409, why_not ?? "The browser in this desktop has no page open.");
  return { wanted: { page: "devtools" }, next: targets[0].path };
}

function stop(title, text, action) {
  heading.textContent = title;
  detail.textContent = text;
  again.textContent = action;
  again.hidden = false;
}

again.addEventListener("click", enter);
// Out of the back-forward cache this page would stand still.
addEventListener("pageshow", (event) => event.persisted && stop("Open it again?", "", "Open"));
if (Date.now() - Number(sessionStorage.getItem(mark)) < TOO_SOON_MS) {
  stop("You were here a moment ago", "If this page keeps coming back, the browser refuses the cookie that lets you in.", "Open");
} else {
  enter();
}
