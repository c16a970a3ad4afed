// Sign-in: a login with its password, an API key, or a one-time link whose token is in the fragment, which no server
// log ever sees.

import { call } from "../api.js";

const form = document.querySelector("#sign-in");
const button = form.querySelector("button[type=submit]");
const error = document.querySelector("#sign-in-error");
const progress = document.querySelector("#sign-in-progress");
const card = document.querySelector(".sign-in-card");
const otherWay = document.querySelector("#other-way");

const field = (name) => form.elements.namedItem(name);
let way = "password";

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (way === "key") byKey();
  else byPassword();
});
otherWay.addEventListener("click", () => {
  show(way === "key" ? "password" : "key");
  field(way === "key" ? "key" : "login").focus();
});
addEventListener("hashchange", tokenInAddress);
tokenInAddress();

function show(wanted) {
  way = wanted;
  for (const part of form.querySelectorAll("[data-way]")) part.hidden = part.dataset.way !== way;
  otherWay.textContent = way === "key" ? "Use a login and password" : "Use an API key";
  calm();
}

function byKey() {
  const key = field("key").value.trim();
  if (key) signIn({ key }, "key");
  else fail("Enter an API key.", "key");
}

function byPassword() {
  const login = field("login").value.trim();
  const password = field("password").value;
  if (!login) fail("Enter your login.", "login");
  else if (!password) fail("Enter your password.", "password");
  else signIn({ login, password }, "password");
}

function tokenInAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  // Out of the address, the history and any screenshot, whatever comes of it.
  history.replaceState(null, "", location.pathname + location.search);
  signIn({ token }, "login");
}

/** @param {string} named the field to go back to when it is refused */
async function signIn(credential, named) {
  setPending(true);
  calm();
  try {
    await call("POST", "/signin", credential);
    // The server has seen to it that this is a page of ours.
    location.replace(form.dataset.next);
  } catch (problem) {
    setPending(false);
    fail(sentence(problem, credential), named);
  }
}

function sentence(problem, credential) {
  if (problem.status === 429) {
    return problem.retryAfter ? `Too many attempts. Try again in ${problem.retryAfter} s.` : "Too many attempts. Wait a minute and try again.";
  }
  if (problem.status !== 401) return problem.message;
  if ("token" in credential) return "This sign-in link was used already or is too old. Sign in another way, or ask for a new link.";
  if ("key" in credential) return "This API key is not known here. Check that all of it was copied.";
  return "Login or password is wrong. Your tenant's admin can send you a link to set a new password.";
}

function setPending(pending) {
  button.disabled = pending;
  progress.hidden = !pending;
  card.setAttribute("aria-busy", String(pending));
}

function calm() {
  error.hidden = true;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

function fail(message, named) {
  error.textContent = message;
  error.hidden = false;
  const input = field(named);
  input.setAttribute("aria-invalid", "true");
  input.focus();
  input.select();
}
