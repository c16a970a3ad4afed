// Which desktops are on the wall, and in which order. Pure: no page, no network.

import { RANK, attentionOf, byAge } from "../attention.js";
import { isOver } from "../session.js";

/** What a group of it is called, and where it is sorted; "" comes last. */
const OF = {
  none: () => "",
  host: (session) => session.host ?? "",
  task: (session) => session.task_id ?? "",
  agent: (session) => session.agent_id ?? "",
};
const NOWHERE = { host: "Not on a host yet", task: "Without a task", agent: "Without an agent", none: "" };

/** So many tiles a browser and a person can look at; the rest is counted, and on the list. */
export const MOST_TILES = 200;
/** What has ended is kept for a moment: an answer that is on its way may know it alive. */
const OVER_FOR_MS = 60_000;

/** Up to here a tile comes before all pinned ones: somebody should look. */
const PRESSING = RANK.slow;

/** What is over is shown while it is news. */
export function isOnWall(session, now) {
  return !isOver(session) || attentionOf(session, now).rank === RANK.error;
}

/** Ended, and no news any more. */
export function isPast(session, now) {
  return isOver(session) && !isOnWall(session, now) && now - Date.parse(session.terminated_at ?? session.updated_at) > OVER_FOR_MS;
}

/** @param {import("./choice.js").Choice} choice */
export function matches(session, choice) {
  return ["host", "task", "agent"].every((name) => !choice[name] || OF[name](session) === choice[name]);
}

/** Those that there is room for: who needs somebody, then the pinned ones, then the others, new ones first. */
export function foremost(sessions, pinned, now, most = MOST_TILES) {
  return sessions.length <= most ? sessions : inOrder(sessions, pinned, now).sorted.slice(0, most);
}

function inOrder(sessions, pinned, now) {
  const places = new Map(sessions.map((session) => [session.id, placeOf(session, pinned, now)]));
  return { places, sorted: [...sessions].sort((a, b) => places.get(a.id) - places.get(b.id) || byAge(a, b)) };
}

/**
 * @param {import("../session.js").Session[]} sessions @param {{group: string}} choice @param {Set<string>} pinned @param {number} now
 * @returns {{name: string, sessions: import("../session.js").Session[]}[]} groups; one without a name where there are none
 */
export function arranged(sessions, { group }, pinned, now) {
  const { places, sorted } = inOrder(sessions, pinned, now);
  /** @type {Map<string, import("../session.js").Session[]>} */
  const groups = new Map();
  for (const session of sorted) {
    const key = OF[group](session);
    groups.set(key, [...(groups.get(key) ?? []), session]);
  }
  const urgent = (its) => Math.min(places.get(its[0].id), PRESSING + 1);
  return [...groups]
    .sort(([a, its], [b, theirs]) => urgent(its) - urgent(theirs) || Number(a === "") - Number(b === "") || a.localeCompare(b, undefined, { numeric: true }))
    .map(([key, its]) => ({ name: key || NOWHERE[group], sessions: its }));
}

/** Pressing ones, then pinned ones, then the others by how much they need. */
function placeOf(session, pinned, now) {
  const { rank } = attentionOf(session, now);
  if (rank <= PRESSING) return rank;
  return pinned.has(session.id) ? PRESSING + 1 : rank + 2;
}

/** "12 desktops", and how many need somebody. */
export function counted(sessions, now) {
  const pressing = sessions.filter((session) => attentionOf(session, now).rank <= RANK.unreachable).length;
  const all = `${sessions.length} ${sessions.length === 1 ? "desktop" : "desktops"}`;
  return { all: sessions.length, pressing, words: pressing ? `${all} · ${pressing} to look at` : all };
}

/** Pixels; on a narrower one nobody knows what he sees. */
const LEAST_TILE = 120;

/** How many tiles a screen that nobody scrolls has room for. */
export function roomFor(width, height, { gap = 12, ratio = 16 / 10, foot = 64 } = {}) {
  const columns = Math.floor((width + gap) / (LEAST_TILE + gap));
  const rows = Math.floor((height + gap) / (LEAST_TILE / ratio + foot + gap));
  return Math.min(MOST_TILES, Math.max(1, columns) * Math.max(1, rows));
}

/**
 * For a screen that nobody scrolls: in how many columns all of them are largest, and how wide they are then, in pixels; `roomFor` says how many fit.
 * @param {{gap?: number, ratio?: number, foot?: number}} look between tiles; width of a picture by its height; what is below it
 */
export function largestTiles(count, width, height, { gap = 12, ratio = 16 / 10, foot = 64 } = {}) {
  let best = { columns: 1, tile: 0 };
  for (let columns = 1; columns <= Math.max(1, count); columns += 1) {
    const rows = Math.ceil(count / columns);
    const byWidth = (width - gap * (columns - 1)) / columns;
    const byHeight = ((height - gap * (rows - 1)) / rows - foot) * ratio;
    const tile = Math.min(byWidth, byHeight);
    if (tile > best.tile) best = { columns, tile };
  }
  return { columns: best.columns, tile: Math.max(Math.floor(best.tile), LEAST_TILE) };
}
