// Sign-in: an API key in the field, or a one-time link whose token is in the fragment, which no server log ever sees.

import { call } from "./api.js";

const form = document.querySelector("#sign-in");
const key = form.elements.namedItem("key");
const button = form.querySelector("button[type=submit]");
const error = document.querySelector("#sign-in-error");
const progress = document.querySelector("#sign-in-progress");
const card = document.querySelector(".sign-in-card");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = key.value.trim();
  if (text) signIn({ key: text });
  else fail("Enter an API key.");
});
addEventListener("hashchange", tokenInAddress);
tokenInAddress();

function tokenInAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  // Out of the address, the history and any screenshot, whatever comes of it.
  history.replaceState(null, "", location.pathname + location.search);
  signIn({ token });
}

async function signIn(credential) {
  setPending(true);
  error.hidden = true;
  try {
    await call("POST", "/signin", credential);
    location.replace(nextPage());
  } catch (problem) {
    setPending(false);
    fail(sentence(problem, "token" in credential));
  }
}

function sentence(problem, byLink) {
  if (problem.status === 429) {
    return problem.retryAfter ? `Too many attempts. Try again in ${problem.retryAfter} s.` : "Too many attempts. Wait a minute and try again.";
  }
  if (problem.status === 401 && byLink) return "This sign-in link was used already or is too old. Sign in with an API key, or ask for a new link.";
  if (problem.status === 401) return "This API key is not known here. Check that all of it was copied.";
  return problem.message;
}

/** Only our own pages: anything else in `next` would make this page a springboard to a foreign one. */
function nextPage() {
  const next = new URLSearchParams(location.search).get("next") ?? "";
  return /^\/(sandboxes|view|open|services)(\/[\w-]+)?$/.test(next) ? next : "/sandboxes";
}

function setPending(pending) {
  button.disabled = pending;
  progress.hidden = !pending;
  card.setAttribute("aria-busy", String(pending));
}

function fail(message) {
  error.textContent = message;
  error.hidden = false;
  key.setAttribute("aria-invalid", "true");
  key.focus();
  key.select();
}
