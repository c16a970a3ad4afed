// The header on every page: its menu, and sign out.

import { holdSignIn, leaveForSignIn, signOut } from "./api.js";
import { icon } from "./dom.js";
import * as icons from "./icons.js";

const menu = document.querySelector(".top .menu");
if (menu) {
  for (const link of menu.querySelectorAll("a")) link.append(icon(icons.tab));
  // Closed by whatever else gets the attention.
  addEventListener("click", (event) => (menu.contains(event.target) && !event.target.closest("a")) || (menu.open = false));
  addEventListener("blur", () => (menu.open = false));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  menu.addEventListener("focusout", (event) => event.relatedTarget && !menu.contains(event.relatedTarget) && (menu.open = false));
}

for (const form of document.querySelectorAll("form[action='/signout']")) form.addEventListener("submit", leave);

async function leave(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  holdSignIn(true);
  try {
    location.assign(await signOut());
  } catch (problem) {
    if (problem.status === 401) return leaveForSignIn();
    holdSignIn(false);
    button.disabled = false;
    button.textContent = "Sign out failed, try again";
  }
}
