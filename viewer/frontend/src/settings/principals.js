// Who `person:…` and `key:…` are, and the roles that they may have.

import { call } from "../api.js";
import { shortId } from "../session.js";

const WORDS = { worker: "the fleet", deploy: "the site's settings", nobody: "nobody", deskfleet: "the fleet" };
const KINDS = { person: "a person", key: "a key", link: "a sign-in link", share: "a share link", webhook_secret: "a webhook's sender", host: "the command line" };

/** What may be given, from the least on: name and words, for a choice. @type {[string, string][]} */
export const ROLES = [["watcher", "Watcher: sees desktops"], ["operator", "Operator: controls desktops too"], ["admin", "Admin: people and keys too"]];

/** @type {Map<string, string>} */
const names = new Map();
let me = "";

/** Ask for the names once; those who may not see them go by what they are. */
export async function learnNames() {
  const [own, people, keys] = await Promise.allSettled([call("GET", "/api/v1/me"), call("GET", "/api/v1/people?limit=200"), call("GET", "/api/v1/keys?limit=200")]);
  if (own.status === "fulfilled") me = own.value.id;
  if (people.status === "fulfilled") for (const one of people.value.items) names.set(`person:${one.id}`, one.name || one.login);
  if (keys.status === "fulfilled") for (const one of keys.value.items) names.set(`key:${one.id}`, one.label || `key ${one.id}`);
}

export const isMe = (principal) => principal === me;

/** @param {string|null} principal */
export function nameOfPrincipal(principal) {
  if (!principal) return "";
  if (isMe(principal)) return "you";
  const [kind, ident = ""] = principal.split(/:(.*)/s);
  if (kind === "host") return `${ident} on the control host`;
  return names.get(principal) ?? WORDS[principal] ?? (KINDS[kind] && ident ? `${KINDS[kind]} (${shortId(ident)})` : principal);
}
