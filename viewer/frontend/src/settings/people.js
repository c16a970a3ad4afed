// People: who signs in by name, as what, when last; add one by a link that is shown once, change, shut out, delete.

import { call } from "../api.js";
import { browserName } from "../browsers.js";
import { copyField } from "../copy.js";
import { actions, button, confirmed, errorLine, field, formDialog, openDialog, pending, select } from "../dialogs.js";
import { badge, element } from "../dom.js";
import * as icons from "../icons.js";
import { exactly } from "../session.js";
import { when } from "../times.js";
import { toast } from "../toast.js";
import { SettingsList, named, rowButton } from "./list.js";
import { ROLES, isMe, learnNames } from "./principals.js";

/**
 * @typedef {object} Person as in the API
 * @property {string} id
 * @property {string} login
 * @property {string} name
 * @property {string} role
 * @property {boolean} is_fleet_admin
 * @property {boolean} has_password
 * @property {boolean} is_disabled
 * @property {string} created_at
 * @property {string|null} last_sign_in_at
 */

const at = (person) => `/api/v1/people/${encodeURIComponent(person.id)}`;
const nameOf = (person) => person.name || person.login;

export async function show(content, head) {
  const list = new SettingsList({
    label: "People",
    columns: ["Person", "Role", "Last sign-in", "State", ""],
    cells: (person) => [
      named(nameOf(person), [person.login, isMe(`person:${person.id}`) && "this is you"].filter(Boolean).join(" · ")),
      person.is_fleet_admin ? `${person.role}, of the fleet too` : person.role,
      when(person.last_sign_in_at),
      badge(stateOf(person)),
      rowButton("Manage", nameOf(person), () => manage(person, list)),
    ],
    isOver: (person) => person.is_disabled,
    empty: { icon: icons.people, heading: "Nobody signs in by name yet", text: "Add a person: the answer is a link by which a password is set, once." },
  });
  head.append(button("Add a person", () => openNew(list), { class: "button primary" }));
  content.append(element("p", { class: "settings-lead" }, "Whoever signs in with a login of their own is called by name: on a desktop that they control, and in the audit log."), list.root);
  await learnNames();
  await list.read("/api/v1/people");
}

/** @param {Person} person */
function stateOf(person) {
  if (person.is_disabled) return { tone: "bad", label: "Shut out" };
  return person.has_password || person.last_sign_in_at ? { tone: "good", label: "May sign in" } : { tone: "busy", label: "Invited" };
}

function openNew(list) {
  formDialog({
    title: "Add a person",
    action: "Add",
    parts: [
      field("Login", element("input", { name: "login", maxlength: "200", autocomplete: "off", autocapitalize: "off", spellcheck: "false", autofocus: true }), "Such as a mail address; nobody else may have it."),
      field("Name", element("input", { name: "name", maxlength: "200", autocomplete: "off" }), "As others see it."),
      field("Role", select("role", ROLES, "operator")),
    ],
    send: async (data) => {
      const person = { login: data.get("login").trim(), role: data.get("role") };
      if (data.get("name").trim()) person.name = data.get("name").trim();
      const made = await call("POST", "/api/v1/people", person);
      await list.read();
      showLink(made.link, nameOf(made.person));
    },
  });
}

/** @param {{url: string, expires_at: string}} link */
function showLink(link, name) {
  const box = openDialog(`A link for ${name}`, [
    element("p", {}, "Whoever opens it sets the password and is signed in. It works once, and is shown this once."),
    copyField(link.url, "The link"),
    element("p", { class: "hint" }, "Good until ", element("time", { datetime: link.expires_at }, exactly(link.expires_at)), "."),
    actions(button("Done", () => box.close(), { class: "button primary" })),
  ], { wide: true });
  box.querySelector(".copy button").focus();
}

/** @param {Person} person */
function manage(person, list) {
  const own = isMe(`person:${person.id}`);
  const error = errorLine();
  const name = element("input", { name: "name", maxlength: "200", autocomplete: "off" });
  name.value = person.name;
  const role = select("role", ROLES, person.role);
  role.disabled = own;
  const save = element("button", { type: "submit", class: "button primary settings-save" }, "Save");
  const form = element("form", { class: "form", novalidate: true }, field("Name", name), field("Role", role, own ? "Your own role is changed by another admin." : ""), save);
  const signIns = element("ul", { class: "settings-sign-ins", "aria-label": "Signed in" });
  const link = button("New one-time link", () => pending(link, error, async () => {
    const made = await call("POST", `${at(person)}/links`);
    box.close();
    showLink(made, nameOf(person));
  }));
  const door = button(person.is_disabled ? "Let in again" : "Shut out", () => pending(door, error, () => change({ disabled: !person.is_disabled }, person.is_disabled ? "may sign in again" : "is shut out")));
  const gone = button("Delete", () => remove(person, list, box), { class: "button settings-risky" });
  if (person.is_disabled) link.disabled = true;
  const box = openDialog(nameOf(person), [
    element("p", {}, person.login, person.is_fleet_admin ? " · also for what is every tenant's" : ""),
    form,
    element("h3", { class: "settings-sub" }, "Signed in"),
    signIns,
    error,
    element("div", { class: "settings-row" }, link, own ? null : door, own ? null : gone),
    actions(button("Close", () => box.close())),
  ], { wide: true });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const changes = {};
    if (name.value.trim() && name.value.trim() !== person.name) changes.name = name.value.trim();
    if (role.value !== person.role) changes.role = role.value;
    if (Object.keys(changes).length) pending(save, error, () => change(changes, "is changed"));
    else box.close();
  });
  pending(save, error, () => showSignIns(person, signIns, error));

  async function change(changes, said) {
    await call("PATCH", at(person), changes);
    box.close();
    toast(`${changes.name ?? nameOf(person)} ${said}.`);
    await list.read();
  }
}

async function showSignIns(person, list, error) {
  const { items } = await call("GET", `${at(person)}/sign-ins`);
  const rows = items.map((one) => {
    const end = rowButton("End", browserName(one.user_agent), () => pending(end, error, async () => {
      await call("DELETE", `${at(person)}/sign-ins/${encodeURIComponent(one.id)}`);
      await showSignIns(person, list, error);
    }));
    return element("li", {}, element("span", { title: one.user_agent ?? "" }, browserName(one.user_agent), element("span", { class: "table-sub" }, one.address ?? "unknown address", " · used ", when(one.used_at))), one.is_this_one ? element("span", { class: "tag" }, "this browser") : end);
  });
  list.replaceChildren(...(rows.length ? rows : [element("li", { class: "hint" }, "Nowhere.")]));
}

function remove(person, list, above) {
  confirmed({
    title: `Delete ${nameOf(person)}?`,
    text: "All their sign-ins, streams and links end. What they did stays in the audit log.",
    action: "Delete person",
    act: () => call("DELETE", at(person)),
  }).then((done) => {
    if (!done) return;
    above.close();
    toast(`${nameOf(person)} is deleted.`);
    list.read();
  });
}
