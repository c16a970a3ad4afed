// What a session's fields mean in words. Pure: no page, no network.

/**
 * @typedef {object} Session as in the API
 * @property {string} id
 * @property {"sandbox"|"desktop"} kind
 * @property {"rfb"|"kasmvnc"|"none"} display
 * @property {"kasmvnc"|"tigervnc"|null} backend what a persistent desktop runs, once that was seen
 * @property {"creating"|"running"|"paused"|"terminated"|"error"} status
 * @property {string|null} status_reason
 * @property {string|null} sandbox_id
 * @property {string|null} host
 * @property {"unknown"|"ok"|"unreachable"|null} host_status
 * @property {string} image
 * @property {string|null} resolution
 * @property {string|null} task_id
 * @property {string|null} agent_id
 * @property {string} created_by `person:…`, `key:…`: a program, or a browser signed in with one
 * @property {string|null} novnc_url
 * @property {string|null} error_message
 * @property {number|null} queue_position its place in the line, from 1; events do not know it
 * @property {{reason: string, asked_at: string, asked_by: string}|null} help what a person is needed for
 * @property {"paused"|"running"|null} wanted_status asked for, and not yet so
 * @property {string} created_at
 * @property {string} updated_at
 * @property {string|null} idle_ends_at it ends then unless somebody uses it before
 * @property {string|null} expires_at
 * @property {string|null} lifetime_ends_at no renewal goes beyond
 * @property {string|null} terminated_at
 */

/** Why a stream ended: the relay's close codes (`viewer/relay/answers.py`). */
export const CLOSE = {
  protocol: 4400, signedOut: 4401, revoked: 4403, gone: 4404, timeLimit: 4408, ended: 4410, leaseLost: 4423, busy: 4429, unreachable: 4502, unsupervised: 4503, restarting: 1012,
};

/** @typedef {{tone: "good"|"busy"|"bad"|"quiet"|"warn", label: string}} Badge */

/** Of each status, in the order of a life. */
export const LABELS = { creating: "Creating", running: "Running", paused: "Paused", error: "Error", terminated: "Terminated" };
const TONES = { creating: "busy", running: "good", paused: "quiet", terminated: "quiet", error: "bad" };

/** @param {Session} session */
export const isOver = (session) => session.status === "terminated" || session.status === "error";

/** @param {Session} session */
export const isEnding = (session) => !isOver(session) && session.status_reason === "terminating";

/** @param {Session} session */
export const hostIsLost = (session) => !isOver(session) && session.host_status === "unreachable";

/** No host has room for it yet. @param {Session} session */
export const isQueued = (session) => session.status === "creating" && session.status_reason === "queued";

const WANTED = { paused: "Pausing", running: "Resuming" };

/** @param {Session} session @returns {Badge} */
export function badgeOf(session) {
  if (isEnding(session)) return { tone: "busy", label: "Terminating" };
  if (hostIsLost(session)) return { tone: "warn", label: "Host unreachable" };
  if (isQueued(session)) return { tone: "busy", label: "Queued" };
  if (WANTED[session.wanted_status]) return { tone: "busy", label: WANTED[session.wanted_status] };
  if (session.status === "running" && session.status_reason === "blank") return { tone: "good", label: "Running, blank" };
  return { tone: TONES[session.status] ?? "bad", label: LABELS[session.status] ?? session.status };
}

/** The first characters of an id, enough to tell sessions apart. */
export const shortId = (id) => id.slice(0, 8);

/** A declared desktop goes by its name (its row keeps it as `sandbox_id`), a sandbox by its short id. */
export function nameOf(session) {
  return session.kind === "desktop" && session.sandbox_id ? session.sandbox_id : shortId(session.id);
}

const BACKENDS = { kasmvnc: "KasmVNC", tigervnc: "TigerVNC" };

/** What shows a persistent desktop's screen, as its makers write it; "" for a sandbox, or while nobody knows. */
export const backendOf = (session) => BACKENDS[session.backend] ?? "";

/** "desktop · 1280 × 800"; a declared desktop has no image, and its backend stands beside its name. */
export function screenOf(session) {
  return [session.kind === "desktop" ? null : session.image, session.resolution?.replace("x", " × ")].filter(Boolean).join(" · ");
}

/** A reason as the worker writes it ("waiting for the first frame") as the beginning of a sentence. */
export function inWords(reason) {
  const words = String(reason ?? "").trim();
  return words ? words[0].toUpperCase() + words.slice(1) : "";
}

/** What waiting in line looks like from inside, as one or two sentences. */
export function placeInLine(position) {
  const place = position === 1 ? "It is the next in line." : position ? `Place ${position} in line.` : "";
  return `${place} It starts as soon as a host has room for it.`.trim();
}

const SOON_MS = 10 * 60_000;
const HOUR_MS = 60 * 60_000;

/**
 * When a live session ends if nothing is done. Any use puts the first of these off, a renewal the second, nothing the third.
 * @param {Session} session @returns {{name: string, at: number, exact: string}[]}
 */
export function endsOf(session) {
  if (isOver(session)) return [];
  const ends = { "Ends if unused": session.idle_ends_at, Ends: session.expires_at, "At the latest": session.lifetime_ends_at };
  const left = Date.parse(session.lifetime_ends_at) - Date.parse(session.expires_at);
  // What cannot be renewed any more has one end; and where hours of renewals are left, nobody asks for the last one.
  if (left <= 0) delete ends["Ends"];
  if (left > HOUR_MS) delete ends["At the latest"];
  return Object.entries(ends).filter(([, at]) => at).map(([name, at]) => ({ name, at: Date.parse(at), exact: at }));
}

/** For the list: the nearest end in its last ten minutes, "" before. */
export function nextEnd(session, now) {
  const [next] = endsOf(session).sort((a, b) => a.at - b.at);
  if (!next || next.at - now >= SOON_MS) return "";
  const left = next.at > now ? `in ${duration(next.at - now)}` : "now";
  return next.name === "Ends if unused" ? `unused, ends ${left}` : `ends ${left}`;
}

/** "in 2 h", "in 12 min", and in the last ten minutes "in 4 min 07 s"; "now" when it is due. */
export function countdown(milliseconds) {
  const seconds = Math.ceil(milliseconds / 1000);
  if (seconds <= 0) return "now";
  if (seconds < 60) return `in ${seconds} s`;
  if (milliseconds >= SOON_MS) return `in ${duration(milliseconds)}`;
  return `in ${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

/** "12 s", "4 min", "3 h", "2 d". */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** "just now", "4 min ago". */
export function ago(milliseconds) {
  return milliseconds < 5000 ? "just now" : `${duration(milliseconds)} ago`;
}

/** The exact time, in the reader's own words and time zone. */
export function exactly(iso) {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}
