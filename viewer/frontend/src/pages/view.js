// The bare page: one desktop, the whole window.

import { Live } from "../live.js";
import "../viewer/sandbox-viewer.js";
import { badgeOf, nameOf } from "../session.js";
import { showTabState } from "../tab-state.js";

const viewer = document.querySelector("sandbox-viewer");
const live = new Live({ withList: false });

viewer.addEventListener("sessionchange", ({ detail: session }) => {
  document.title = `${badgeOf(session).label} · ${nameOf(session)} · Deskfleet`;
  showTabState({ needing: session.help ? 1 : 0 });
});
live.addEventListener("state", () => showTabState({ connection: live.state }));
// The page brings what its session is: the stream waits for no question.
if (viewer.dataset.known) live.accept(JSON.parse(viewer.dataset.known));
viewer.live = live;
live.start();
