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
 * @property {string|null} novnc_url
 * @property {string|null} error_message
 * @property {string} created_at
 * @property {string} updated_at
 * @property {string|null} expires_at
 * @property {string|null} terminated_at
 */

/** Why a stream ended: the relay's close codes (`viewer/relay/answers.py`). */
export const CLOSE = { protocol: 4400, revoked: 4403, gone: 4404, timeLimit: 4408, busy: 4429, unreachable: 4502, restarting: 1012 };

/** @typedef {{tone: "good"|"busy"|"bad"|"quiet"|"warn", label: string}} Badge */

const LABELS = { creating: "Creating", running: "Running", paused: "Paused", terminated: "Terminated", error: "Error" };
const TONES = { creating: "busy", running: "good", paused: "quiet", terminated: "quiet", error: "bad" };

/** @param {Session} session */
export const isOver = (session) => session.status === "terminated" || session.status === "error";

/** @param {Session} session */
export const isEnding = (session) => !isOver(session) && session.status_reason === "terminating";

/** @param {Session} session */
export const hostIsLost = (session) => !isOver(session) && session.host_status === "unreachable";

/** @param {Session} session @returns {Badge} */
export function badgeOf(session) {
  if (isEnding(session)) return { tone: "busy", label: "Terminating" };
  if (hostIsLost(session)) return { tone: "warn", label: "Host unreachable" };
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
