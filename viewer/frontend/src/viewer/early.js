// The stream of the desktop that a page was opened for. A page that names it has it opened before anything else there runs:
// while the page's code is read and the screen drawn, the viewer lets it in and the relay finds the desktop.

const CLAIMED_WITHIN_MS = 10_000;

/** @type {{sessionId: string, socket: WebSocket, heard: MessageEvent[]}|null} */
let early = null;

/** @param {string} sessionId @param {{shared: boolean}} options shared: as a visitor by a share link */
function open(sessionId, { shared }) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(`${scheme}//${location.host}/stream/${encodeURIComponent(sessionId)}${shared ? "?as=share" : ""}`, ["binary"]);
}

function openEarly(sessionId) {
  const socket = open(sessionId, { shared: false });
  const heard = [];
  socket.binaryType = "arraybuffer";
  socket.onmessage = (message) => heard.push(message);
  early = { sessionId, socket, heard };
  setTimeout(() => early?.socket === socket && drop(), CLAIMED_WITHIN_MS);
}

function drop() {
  early?.socket.close();
  early = null;
}

/** The one that is open already, if it is for that session; else a new one. Whoever gets it sets `onmessage` at once. */
export function streamOf(sessionId, { shared }) {
  const { socket, heard } = (!shared && early?.sessionId === sessionId && early) || {};
  // One that was refused is tried again, and its end told to whoever asks now.
  if (!socket || socket.readyState > WebSocket.OPEN) return open(sessionId, { shared });
  early = null;
  socket.onmessage = null;
  // Before any further one: those come as tasks.
  queueMicrotask(() => heard.forEach(({ data }) => socket.dispatchEvent(new MessageEvent("message", { data }))));
  return socket;
}

const named = globalThis.document?.querySelector("meta[name=deskfleet-stream]")?.content;
if (named) openEarly(named);
