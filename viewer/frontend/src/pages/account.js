// The account page: where somebody is signed in, and his password.

import { call, goToSignIn } from "../api.js";
import { browserName } from "../browsers.js";
import { element } from "../dom.js";
import "../header.js";
import { when } from "../times.js";

/**
 * @typedef {object} SignIn as in the API
 * @property {string} id
 * @property {boolean} is_this_one
 * @property {string|null} address
 * @property {string|null} user_agent
 * @property {string} created_at
 * @property {string} used_at
 */

const list = document.querySelector("#sign-ins");
const listError = document.querySelector("#sign-ins-error");
const endOthers = document.querySelector("#end-others");

endOthers.addEventListener("click", () => act(endOthers, "DELETE", "/api/v1/me/sign-ins"));
readSignIns();

async function readSignIns() {
  try {
    const { items } = await call("GET", "/api/v1/me/sign-ins");
    list.replaceChildren(...items.map(row));
    endOthers.hidden = !items.some((one) => !one.is_this_one);
  } catch (problem) {
    tell(problem);
  } finally {
    list.removeAttribute("aria-busy");
  }
}

/** @param {SignIn} signIn */
function row(signIn) {
  const end = element("button", { type: "button", class: "button" }, "Sign out");
  end.setAttribute("aria-label", `Sign out ${nameOf(signIn)}`);
  end.addEventListener("click", () => act(end, "DELETE", `/api/v1/me/sign-ins/${encodeURIComponent(signIn.id)}`));
  return element(
    "li",
    {},
    element(
      "div",
      { class: "sign-in-what" },
      element("span", { class: "sign-in-name", title: signIn.user_agent ?? "" }, nameOf(signIn)),
      element("span", { class: "sign-in-where" }, signIn.address ?? "unknown address", " · used ", when(signIn.used_at)),
    ),
    signIn.is_this_one ? element("span", { class: "tag" }, "this browser") : end,
  );
}

/** @param {SignIn} signIn */
function nameOf(signIn) {
  return browserName(signIn.user_agent);
}

async function act(button, method, path) {
  button.disabled = true;
  listError.hidden = true;
  try {
    await call(method, path);
  } catch (problem) {
    button.disabled = false;
    if (problem.status !== 404) return tell(problem);
  }
  button.disabled = false;
  await readSignIns();
}

function tell(problem) {
  if (problem.status === 401) return goToSignIn();
  listError.textContent = problem.message;
  listError.hidden = false;
}

// ---- the password -----------------------------------------------------------------------------------------------

const form = document.querySelector("#change-password");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = (name) => form.elements.namedItem(name);
  const error = document.querySelector("#password-error");
  const done = document.querySelector("#password-done");
  const button = form.querySelector("button");
  const fail = (message, named) => {
    error.textContent = message;
    error.hidden = false;
    field(named).focus();
    field(named).select();
  };
  error.hidden = done.hidden = true;
  if (!field("password").value) return fail("Enter your password as it is now.", "password");
  if (field("new_password").value !== field("again").value) return fail("The two new ones are not the same.", "again");
  button.disabled = true;
  try {
    await call("POST", "/api/v1/me/password", { password: field("password").value, new_password: field("new_password").value });
    form.reset();
    done.textContent = "Your password is changed. You are signed out everywhere else.";
    done.hidden = false;
    await readSignIns();
  } catch (problem) {
    if (problem.status === 401) return goToSignIn();
    if (problem.fields.password) return fail("That is not your password.", "password");
    if (problem.fields.new_password) return fail(`The new password ${problem.fields.new_password}.`, "new_password");
    fail(problem.message, "password");
  } finally {
    button.disabled = false;
  }
});
