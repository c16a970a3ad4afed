// API keys: who has one, what it may do, when it was used; make one, which is shown once, and revoke one.

import { call } from "../api.js";
import { copyField } from "../copy.js";
import { actions, button, confirmed, field, formDialog, openDialog, select } from "../dialogs.js";
import { badge, element } from "../dom.js";
import * as icons from "../icons.js";
import { toast } from "../toast.js";
import { isPast, when } from "../times.js";
import { ROLES, isMe, learnNames, nameOfPrincipal } from "./principals.js";
import { SettingsList, named, rowButton } from "./list.js";

/**
 * @typedef {object} Key as in the API
 * @property {string} id
 * @property {string} label
 * @property {string} role
 * @property {string[]|null} scopes
 * @property {boolean} declared
 * @property {string|null} created_by
 * @property {string} created_at
 * @property {string|null} last_used_at
 * @property {string|null} ends_at
 * @property {string|null} revoked_at
 */

const SCOPES = {
  sessions: "Sessions: see, make, change and end them",
  streams: "Streams: open desktops, their ports and services",
  events: "Events: post events of an outside system",
  manage: "Manage: people, keys, webhooks, audit log",
};
const LIVES = [["", "No end"], ["1", "1 day"], ["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "1 year"]];

export async function show(content, head) {
  const list = new SettingsList({
    label: "API keys",
    columns: ["Key", "Role", "May use", "Last used", "Ends", ""],
    cells: (key) => cells(key, list),
    isOver,
    empty: { icon: icons.key, heading: "No API keys yet", text: "Agents and scripts come in with a key. Each may be limited in what it does and in how long it lives." },
  });
  head.append(button("New key", () => openNew(list), { class: "button primary" }));
  content.append(element("p", { class: "settings-lead" }, "A key lets a program in. Its text is shown once, when it is made; only its hash is kept."), list.root);
  await learnNames();
  await list.read("/api/v1/keys");
}

/** @param {Key} key */
const isOver = (key) => key.revoked_at !== null || isPast(key.ends_at);

/** @param {Key} key */
function cells(key, list) {
  const name = key.label || "Without a name";
  const maker = key.declared ? "of the site's own secrets" : key.created_by ? `made by ${nameOfPrincipal(key.created_by)}` : "";
  const may = key.scopes === null ? "all of its role" : key.scopes.join(", ");
  const own = isMe(`key:${key.id}`) ? "this is yours" : "";
  const title = named(name, [`df_${key.id}_…`, maker, own].filter(Boolean).join(" · "));
  return [title, key.role, may, when(key.last_used_at), endOf(key), isOver(key) || own || key.declared ? "" : rowButton("Revoke", name, () => revoke(key, name, list))];
}

/** @param {Key} key */
function endOf(key) {
  if (key.revoked_at) return [badge({ tone: "quiet", label: "Revoked" }), " ", when(key.revoked_at)];
  if (isPast(key.ends_at)) return [badge({ tone: "quiet", label: "Over" }), " ", when(key.ends_at)];
  return key.ends_at ? when(key.ends_at) : "never";
}

function openNew(list) {
  const role = select("role", rolesToGive(), "operator");
  const boxes = Object.entries(SCOPES).map(([name, words]) => element("label", { class: "check" }, element("input", { type: "checkbox", name: "scopes", value: name, checked: true }), words));
  formDialog({
    title: "New API key",
    wide: true,
    action: "Make key",
    parts: [
      field("Name", element("input", { name: "label", maxlength: "200", autocomplete: "off", placeholder: "Who or what uses it", autofocus: true })),
      field("Role", role), field("Good for", select("days", LIVES, "")),
      element("fieldset", { class: "settings-scopes" }, element("legend", {}, "It may use, within its role"), ...boxes),
    ],
    send: async (data) => {
      const made = await call("POST", "/api/v1/keys", wanted(data));
      await list.read();
      showOnce(made);
    },
  });
}

/** Those up to one's own. */
function rolesToGive() {
  const own = ROLES.findIndex(([role]) => role === document.body.dataset.role);
  return ROLES.slice(0, own + 1);
}

function wanted(data) {
  const scopes = data.getAll("scopes");
  const key = { role: data.get("role") };
  if (data.get("label").trim()) key.label = data.get("label").trim();
  if (data.get("days")) key.days = Number(data.get("days"));
  // All of them is what a key without scopes has, those of later versions too.
  if (scopes.length < Object.keys(SCOPES).length) key.scopes = scopes;
  return key;
}

/** @param {{key: Key, text: string}} made */
function showOnce(made) {
  const curl = `curl -H 'Authorization: Bearer ${made.text}' ${location.origin}/api/v1/me`;
  const box = openDialog("Copy the key now", [
    element("p", {}, "It is shown this once. Whoever has it may do what it may."),
    copyField(made.text, "The key"),
    element("details", { class: "settings-try" }, element("summary", {}, "Try it"), copyField(curl, "A command that says whose key it is", { lines: true })),
    actions(button("Done", () => box.close(), { class: "button primary" })),
  ], { wide: true });
  box.querySelector(".copy button").focus();
}

function revoke(key, name, list) {
  confirmed({
    title: `Revoke “${name}”?`,
    text: "Whatever uses it is out at once: its requests are refused, its streams end. It cannot be brought back.",
    action: "Revoke key",
    act: () => call("DELETE", `/api/v1/keys/${encodeURIComponent(key.id)}`),
  }).then((done) => done && (toast(`“${name}” is revoked.`), list.read()));
}
