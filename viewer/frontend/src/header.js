// The header on every page: its menus, the navigation's icons, who needs a person, how pages look, and sign out.

import { holdSignIn, leaveForSignIn, signOut } from "./api.js";
import { offerLooks } from "./appearance.js";
import { icon } from "./dom.js";
import * as icons from "./icons.js";
import { openMenus } from "./menus.js";
import { watchNeeding } from "./needing.js";

const PLACES = { sandboxes: icons.screen, wall: icons.wall, tasks: icons.task, documents: icons.document, hosts: icons.host, settings: icons.settings };

for (const link of document.querySelectorAll(".top-nav [data-place]")) link.querySelector(".place-icon").append(icon(PLACES[link.dataset.place]));
for (const link of document.querySelectorAll("#services-menu a")) link.append(icon(icons.tab));
openMenus();
offerLooks();
if (document.querySelector(".top-nav")) watchNeeding();

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
