// How the element reaches its fleet from a page of another origin: by tickets, never by a cookie, and to read alone.

import { Problem, bodyOf, problemFrom } from "../api.js";
import { LateSocket } from "./late-socket.js";

const OPEN_TO_TICKETS = /^\/api\/v1\/sessions\/[^/?]+(?:\/(?:lease|events))?$/;
const PATIENCE_MS = 25_000;

/** @param {string} base the viewer's origin @param {import("./tickets.js").Tickets} tickets @returns {import("../viewer/connection.js").Connection & {read: (path: string, options: {headers: Record<string, string>, signal: AbortSignal}) => Promise<Response>}} */
export function foreignConnection(base, tickets) {
  /** An answer of the API, good or not. Throws a Problem where none came. */
  async function get(path, { headers = {}, signal }) {
    const ticket = await tickets.forReading();
    let answer;
    try {
      answer = await fetch(base + path, { headers: { ...headers, Authorization: `Bearer ${ticket}` }, credentials: "omit", cache: "no-store", signal });
    } catch {
      throw new Problem(0, signal.aborted ? "The server took too long to answer." : await whyUnreachable(base));
    }
    // It may have run out on its way: then another one is asked for, once.
    return { answer, isStale: answer.status === 401 && tickets.refused(ticket) };
  }

  async function read(path, options) {
    const first = await get(path, options);
    const { answer } = first.isStale ? await get(path, options) : first;
    if (answer.ok) return answer;
    const problem = problemFrom(answer, await bodyOf(answer));
    // Nobody can sign in here: what to do about it is the page's own affair.
    throw answer.status === 401 ? new Problem(0, `The ticket of this desktop is not good any more: ${problem.message}`) : problem;
  }

  return {
    base,
    role: "watcher",
    isForeign: true,
    read,
    async call(method, path) {
      if (method !== "GET" || !OPEN_TO_TICKETS.test(path)) throw new Problem(403, "A page of another site cannot do that.");
      const answer = await bodyOf(await read(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS) }));
      // The ticket's maker may have control elsewhere: what is typed here is his only if the ticket is for that.
      return path.endsWith("/lease") && tickets.role !== "control" ? { ...answer, you: "" } : answer;
    },
    openStream: (sessionId) =>
      new LateSocket(async () => new WebSocket(`${base.replace("http", "ws")}/stream/${encodeURIComponent(sessionId)}`, ["binary", `ticket.${await tickets.forStream()}`])),
  };
}

/** A browser does not say why it kept an answer from a page: the script's own address, which all may read, tells the two apart. */
async function whyUnreachable(base) {
  try {
    await fetch(`${base}/embed/sandbox-viewer.js`, { method: "HEAD", credentials: "omit", cache: "no-store" });
  } catch {
    return `${base} cannot be reached from this page.`;
  }
  return `Pages of ${location.origin} may not show this desktop: its fleet does not list them under embed_origins.`;
}
