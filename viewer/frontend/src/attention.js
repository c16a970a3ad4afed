// Which session a person should look at first, and why. Pure: no page, no network.

import { badgeOf, duration, hostIsLost, isEnding, isOver, isQueued } from "./session.js";

/** Smaller is more urgent. */
export const RANK = { help: 0, error: 1, unreachable: 2, slow: 3, running: 4, idle: 5, paused: 6, ended: 7 };

const ERROR_IS_NEWS_MS = 10 * 60_000;
// A desktop is there within seconds; one whose image must be fetched first may take a minute.
const CREATES_LONG_MS = 60_000;
const IDLE_AFTER_MS = 10 * 60_000;

/**
 * @param {import("./session.js").Session} session
 * @param {number} now milliseconds, of the server's clock
 * @param {{unseen?: boolean}} options unseen: nobody in front of this browser has looked at it since it failed
 * @returns {{rank: number, tone: "good"|"busy"|"bad"|"quiet"|"warn", label: string, why: string}} why: "" when there is no more to say
 */
export function attentionOf(session, now, { unseen = false } = {}) {
  if (isOver(session)) return over(session, now, unseen);
  if (session.help) return { rank: RANK.help, tone: "warn", label: "Needs a person", why: session.help.reason ?? "" };
  const { tone, label } = badgeOf(session);
  const of = (rank, why) => ({ rank, tone, label, why });
  if (isEnding(session)) return of(RANK.paused, "");
  if (hostIsLost(session)) return of(RANK.unreachable, `Host ${session.host} does not answer`);
  if (session.status === "creating") return creating(session, now, of);
  if (session.status === "paused") return of(RANK.paused, "");
  const unused = now - Date.parse(session.last_used_at ?? session.created_at);
  if (unused >= IDLE_AFTER_MS) return of(RANK.idle, `Not used for ${duration(unused)}`);
  return of(RANK.running, "");
}

function over(session, now, unseen) {
  const failed = session.status === "error";
  const since = now - Date.parse(session.terminated_at ?? session.updated_at);
  const isNews = failed && (unseen || since < ERROR_IS_NEWS_MS);
  return { ...badgeOf(session), rank: isNews ? RANK.error : RANK.ended, why: (failed && session.error_message) || "" };
}

function creating(session, now, of) {
  const took = now - Date.parse(session.created_at);
  if (took < CREATES_LONG_MS) return of(RANK.running, "");
  return of(RANK.slow, `${isQueued(session) ? "Waiting in line" : "Being made"} for ${duration(took)}`);
}

/** For `sort`: the most urgent first, then the newest. @param {number} now */
export function byAttention(now, options = () => ({})) {
  // Each is compared with a dozen others of some thousand.
  const ranks = new Map();
  const rankOf = (session) => {
    if (!ranks.has(session)) ranks.set(session, attentionOf(session, now, options(session)).rank);
    return ranks.get(session);
  };
  return (a, b) => rankOf(a) - rankOf(b) || byAge(a, b);
}

/** For `sort`: newest first; ids decide between those of one moment. */
export function byAge(a, b) {
  return Date.parse(b.created_at) - Date.parse(a.created_at) || (a.id < b.id ? 1 : -1);
}
