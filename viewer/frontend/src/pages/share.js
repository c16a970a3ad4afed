// Where a share link leads: what stands behind the # is posted once, becomes this browser's cookie, and leaves the address.

import { call } from "../api.js";

const heading = document.querySelector("#share-heading");
const detail = document.querySelector("#share-detail");
const again = document.querySelector("#share-again");
let token = "";

/** Take the secret out of the address: it must not stay in the history, nor be seen over a shoulder. */
function takeToken() {
  const found = location.hash.slice(1);
  if (found) token = found;
  history.replaceState(null, "", location.pathname);
}

async function open() {
  again.hidden = true;
  heading.textContent = "Opening the shared desktop…";
  detail.textContent = "";
  try {
    const { page } = await call("POST", "/s", { token });
    location.replace(page);
  } catch (problem) {
    heading.textContent = problem.title || "It could not be opened";
    detail.textContent = problem.message;
    // The others will be the same the next time.
    again.hidden = problem.status !== 0 && problem.status !== 429 && problem.status < 500;
  }
}

function begin() {
  takeToken();
  if (token) return open();
  heading.textContent = "This link is incomplete";
  detail.textContent = "Open it again, the whole of it, from where it was sent to you.";
}

again.addEventListener("click", open);
// Another link pasted into the same tab changes the fragment alone.
addEventListener("hashchange", () => location.hash.length > 1 && begin());
begin();
