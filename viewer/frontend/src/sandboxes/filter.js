// What the list shows and in which order: the query of the page's address, in the API's own words. Pure.

import { byAge, byAttention } from "../attention.js";
import { isOver } from "../session.js";

/**
 * @typedef {object} Filter
 * @property {string[]} status any of them; all when empty
 * @property {string} host @property {string} image
 * @property {string} task @property {string} agent
 * @property {boolean} help only those that need a person
 * @property {string} q words that all are somewhere in what a person reads of it
 * @property {string} sort one of SORTS
 */

export const LIVE = ["creating", "running", "paused"];
const STATUSES = [...LIVE, "error", "terminated"];
/** By name: what people read. The first is the usual one, which needs the live ones all together. */
export const SORTS = { attention: "What needs you first", "-created": "Newest first", created: "Oldest first", "-updated": "Changed last", expires: "Ends next" };
/** In the address and in the API, for each field that holds one text. */
const NAMES = { host: "host", image: "image", task: "task_id", agent: "agent_id", q: "q" };
const LONGEST = 200;

/** @returns {Filter} */
export const everything = () => ({ status: [], host: "", image: "", task: "", agent: "", help: false, q: "", sort: "attention" });

/** @param {string} search `location.search`; what it says that nobody knows is left out. @returns {Filter} */
export function filterFrom(search) {
  const said = new URLSearchParams(search);
  const filter = everything();
  filter.status = STATUSES.filter((status) => said.getAll("status").includes(status));
  for (const [field, name] of Object.entries(NAMES)) filter[field] = clean(said.get(name));
  filter.help = said.get("help") === "true";
  if (Object.hasOwn(SORTS, said.get("sort"))) filter.sort = said.get("sort");
  return filter;
}

/** The same as part of an address: "" or "?…". @param {Filter} filter */
export function searchOf(filter) {
  const said = params(filter);
  if (filter.sort !== "attention") said.append("sort", filter.sort);
  return said.size ? `?${said}` : "";
}

/** For the API. Attention is the page's own order: the API gives the newest. @param {Filter} filter */
export function queryOf(filter, more = {}) {
  const asked = params({ ...filter, status: more.status ?? filter.status });
  if (filter.sort !== "attention" && !more.status) asked.append("sort", filter.sort);
  asked.append("limit", more.limit);
  if (more.cursor) asked.append("cursor", more.cursor);
  return asked.toString();
}

function params(filter) {
  const said = new URLSearchParams();
  for (const status of filter.status) said.append("status", status);
  for (const [field, name] of Object.entries(NAMES)) if (clean(filter[field])) said.append(name, clean(filter[field]));
  if (filter.help) said.append("help", "true");
  return said;
}

// What the API refuses would make the whole address useless: control characters, and more than it takes.
const clean = (text) => String(text ?? "").replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, " ").trim().slice(0, LONGEST).trim();

/** Does it narrow the list at all? @param {Filter} filter */
export const isNarrow = (filter) => searchOf({ ...filter, sort: "attention" }) !== "";

/** The statuses in the filter that live; all of them when it names none. @param {Filter} filter */
export const liveOf = (filter) => LIVE.filter((status) => !filter.status.length || filter.status.includes(status));

/** As the API sees it. @param {import("../session.js").Session} session @param {Filter} filter */
export function matches(session, filter) {
  if (filter.status.length && !filter.status.includes(session.status)) return false;
  if (filter.host && session.host !== filter.host) return false;
  if (filter.image && session.image !== filter.image) return false;
  if (filter.task && session.task_id !== filter.task) return false;
  if (filter.agent && session.agent_id !== filter.agent) return false;
  if (filter.help && !session.help) return false;
  if (filter.sort === "expires" && (isOver(session) || !session.expires_at)) return false;
  const words = clean(filter.q).toLowerCase().split(" ").filter(Boolean);
  if (!words.length) return true;
  const read = readOf(session);
  return words.every((word) => read.includes(word));
}

function readOf(session) {
  const { id, sandbox_id, status, image, host, task_id, agent_id, status_reason, error_message, help, labels } = session;
  return [id, sandbox_id, status, image, host, task_id, agent_id, status_reason, error_message, help?.reason, ...Object.values(labels ?? {})].join("\n").toLowerCase();
}

const time = (text) => Date.parse(text ?? "") || 0;
const ORDERS = {
  "-created": byAge,
  created: (a, b) => byAge(b, a),
  "-updated": (a, b) => time(b.updated_at) - time(a.updated_at) || byAge(a, b),
  expires: (a, b) => time(a.expires_at) - time(b.expires_at) || byAge(b, a),
};

/** For `sort`. @param {Filter} filter @param {number} now @param {(session: object) => {unseen?: boolean}} options */
export const orderOf = (filter, now, options) => ORDERS[filter.sort] ?? byAttention(now, options);

/** Does `session` stand before `edge` or at it, in the order that the API gave pages in? @param {Filter} filter */
export const isWithin = (session, edge, filter) => (ORDERS[filter.sort] ?? byAge)(session, edge) <= 0;
