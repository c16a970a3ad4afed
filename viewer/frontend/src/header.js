// The header on every page: sign out.

import { call, holdSignIn, leaveForSignIn } from "./api.js";

document.querySelector("#sign-out")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  holdSignIn(true);
  try {
    await call("POST", "/signout");
  } catch (problem) {
    if (problem.status !== 401) {
      holdSignIn(false);
      button.disabled = false;
      button.textContent = "Sign out failed, try again";
      return;
    }
  }
  leaveForSignIn();
});
