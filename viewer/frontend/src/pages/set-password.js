// A person sets his password by the one-time link that his admin has sent him. The token never leaves this page but
// for the one request that uses it.

import { call } from "../api.js";

const form = document.querySelector("#set-password");
const button = form.querySelector("button");
const error = document.querySelector("#set-password-error");
const field = (name) => form.elements.namedItem(name);

let token = "";
addEventListener("hashchange", takeToken);
takeToken();
if (!token) fail("This page needs the link that your admin has sent you.", "password");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.hidden = true;
  const password = field("password").value;
  if (!token) return fail("This page needs the link that your admin has sent you.", "password");
  if (password !== field("again").value) return fail("The two are not the same.", "again");
  button.disabled = true;
  try {
    await call("POST", "/set-password", { token, password });
    location.replace("/sandboxes");
  } catch (problem) {
    button.disabled = false;
    fail(problem.fields.password ? `The password ${problem.fields.password}.` : problem.message, "password");
  }
});

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  token = given;
  // Out of the address, the history and any screenshot.
  history.replaceState(null, "", location.pathname);
}

function fail(message, named) {
  error.textContent = message;
  error.hidden = false;
  field(named).focus();
  field(named).select();
}
