// The bare page: one desktop, the whole window.

import { Live } from "../live.js";
import "../viewer/sandbox-viewer.js";
import { badgeOf, nameOf } from "../session.js";

const viewer = document.querySelector("sandbox-viewer");
const live = new Live({ withList: false });

viewer.addEventListener("sessionchange", ({ detail: session }) => {
  document.title = `${badgeOf(session).label} · ${nameOf(session)} · Deskfleet`;
});
viewer.live = live;
live.start();
