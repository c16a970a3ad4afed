// Which failed sessions somebody in front of this browser has looked at: a new failure stays on top of lists until then.

const KEY = "deskfleet.seen";
const MOST = 200;

/** @type {{since: number, ids: string[]}} since: what failed before was there before anybody looked */
let seen = read();

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    if (Number.isFinite(kept?.since) && Array.isArray(kept.ids)) return kept;
  } catch {
    // Storage may be shut off; then this page alone remembers.
  }
  return { since: Date.now(), ids: [] };
}

/** @param {import("./session.js").Session} session */
export function see(session) {
  if (session.status !== "error" || seen.ids.includes(session.id)) return;
  seen = { since: seen.since, ids: [...seen.ids, session.id].slice(-MOST) };
  keep();
}

/** For `attentionOf`. @param {import("./session.js").Session} session */
export const seenness = (session) => ({ unseen: session.status === "error" && Date.parse(session.terminated_at) > seen.since && !seen.ids.includes(session.id) });

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify(seen));
  } catch {
    // As above.
  }
}

keep();
addEventListener("storage", (event) => event.key === KEY && (seen = read()));
