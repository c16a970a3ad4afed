// The viewer's API as this browser sees it: same origin, cookie, problem documents.

/** An answer that is not the one hoped for. `status` 0 means that no answer came at all. */
export class Problem extends Error {
  /** @param {number} status @param {string} message @param {Record<string, string>} fields @param {number} retryAfter seconds @param {string} title */
  constructor(status, message, fields = {}, retryAfter = 0, title = "") {
    super(message);
    this.status = status;
    this.fields = fields;
    this.retryAfter = retryAfter;
    this.title = title;
  }
}

// Longer than the longest wait of the API (ending a desktop: 15 s).
const PATIENCE_MS = 25_000;

let skew = 0;

/** The server's clock in milliseconds: ages and elapsed times are wrong on a machine whose own clock is. */
export function serverNow() {
  return Date.now() - skew;
}

/** Send one request and return the parsed answer (null without a body), or throw a Problem. */
export async function call(method, path, body) {
  return (await ask(method, path, body)).answer;
}

/** The picture at that path; throws a Problem. @param {string} path @returns {Promise<Blob>} */
export async function picture(path) {
  const response = await send("GET", path);
  if (!response.ok) throw problemFrom(response, await bodyOf(response));
  return response.blob();
}

/** Sign out, and return the address that this leads to: of a page of ours. */
export async function signOut() {
  return (await ask("POST", "/signout")).url;
}

async function ask(method, path, body) {
  const response = await send(method, path, body);
  const answer = await bodyOf(response);
  if (response.ok) return { answer, url: response.url };
  throw problemFrom(response, answer);
}

async function send(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? { Accept: "application/json" } : { Accept: "application/json", "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Problem(0, "The server cannot be reached right now.");
  }
  learnSkew(response.headers.get("Date"));
  return response;
}

function learnSkew(date) {
  const told = Date.parse(date ?? "");
  // The header has whole seconds, so anything below two of them is noise.
  if (!Number.isNaN(told)) skew = Math.abs(Date.now() - told) < 2000 ? 0 : Date.now() - told;
}

/** What an answer says, parsed; null without JSON. @param {Response} response */
export async function bodyOf(response) {
  const kind = response.headers.get("Content-Type") ?? "";
  if (!kind.includes("json")) return null;
  try {
    return await response.json();
  } catch {
    return null;
  }
}

/** What an answer holds as text because it is JSON. @param {string} base64 */
export function bytesOf(base64) {
  return Uint8Array.fromBase64?.(base64) ?? Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** @param {Response} response one that is not good @param {any} answer what it says */
export function problemFrom(response, answer) {
  const fields = {};
  for (const error of answer?.errors ?? []) {
    if (typeof error?.field === "string") fields[error.field] = [error.message, error.mend].filter(Boolean).join("; ");
  }
  const message = answer?.detail || answer?.title || fallback(response.status);
  return new Problem(response.status, message, fields, Number(response.headers.get("Retry-After")) || 0, answer?.title ?? "");
}

function fallback(status) {
  if (status === 401) return "You are not signed in.";
  if (status === 403) return "You are not allowed to do that.";
  if (status === 404) return "There is no such thing here.";
  if (status === 429) return "Too many attempts.";
  if (status >= 500) return "The server is not ready right now.";
  return `The server refused (${status}).`;
}

let held = false;

/** Signing out ends the event stream too, and its 401 must not lead through the sign-in page back here. */
export function holdSignIn(hold) {
  held = hold;
}

/** Leave for the sign-in page and come back here afterwards. */
export function goToSignIn() {
  if (!held) location.assign(`/signin?next=${encodeURIComponent(location.pathname + location.search)}`);
}

/** Leave for the sign-in page for good. */
export function leaveForSignIn() {
  location.assign("/signin");
}

const at = (id) => `/api/v1/sessions/${encodeURIComponent(id)}`;
export const getSession = (id) => call("GET", at(id));
export const terminateSession = (id) => call("DELETE", at(id));
export const createSession = (wanted) => call("POST", "/api/v1/sessions", wanted);
export const listFailed = () => call("GET", "/api/v1/sessions?status=error&limit=50");
/** All that live, newest first, up to `most`. */
export const listActive = (most) => everyPage("/api/v1/sessions?status=creating&status=running&status=paused&limit=200", most);

/** The items of all pages of a list, one after the other until there are `most`; `next_cursor`: null where that is all. */
export async function everyPage(path, most) {
  const items = [];
  let cursor = null;
  do {
    const page = await call("GET", cursor ? `${path}&cursor=${encodeURIComponent(cursor)}` : path);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor !== null && items.length < most);
  return { items, next_cursor: cursor };
}

export const listNewest = () => call("GET", "/api/v1/sessions?limit=50");
