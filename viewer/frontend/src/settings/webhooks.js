// Webhooks: the addresses that events are sent to, with what became of the last ones, and the outside systems that send
// events here. A secret is shown once, when it is made.

import { call } from "../api.js";
import { copyField } from "../copy.js";
import { actions, button, confirmed, errorLine, field, formDialog, openDialog, pending } from "../dialogs.js";
import { badge, element } from "../dom.js";
import * as icons from "../icons.js";
import { toast } from "../toast.js";
import { isPast, when } from "../times.js";
import { learnNames, nameOfPrincipal } from "./principals.js";
import { SettingsList, named, rowButton } from "./list.js";

/**
 * @typedef {object} Endpoint as in the API
 * @property {string} id
 * @property {string} url
 * @property {string} label
 * @property {string[]} types
 * @property {boolean} enabled
 * @property {string|null} disabled_at
 * @property {string|null} disabled_reason
 * @property {string|null} failing_since
 * @property {string|null} former_secret_ends_at
 * @property {string} created_by
 */
/**
 * @typedef {object} Sender as in the API
 * @property {string} id
 * @property {string} label
 * @property {string} created_by
 * @property {string|null} last_used_at
 * @property {string|null} ends_at
 * @property {string|null} revoked_at
 */

const LAST_DELIVERIES = 10;
const LOOK_AGAIN_MS = 1000;
/** Nobody gets these who did not ask for them: an agent at work takes and loses the lease all the time. */
const ONLY_WHEN_NAMED = "session.lease";
const TYPES = {
  "session.created": "a session is there",
  "session.running": "it runs",
  "session.paused": "it is paused",
  "session.terminated": "it has ended",
  "session.error": "it has failed",
  "session.updated": "anything else about it",
  "session.lease": "who has keyboard and mouse",
};
const STATES = {
  pending: { tone: "busy", label: "Under way" },
  delivered: { tone: "good", label: "Delivered" },
  failed: { tone: "bad", label: "Given up" },
  cancelled: { tone: "quiet", label: "Cancelled" },
};

const at = (endpoint) => `/api/v1/webhooks/${encodeURIComponent(endpoint.id)}`;
const atSender = (sender) => `/api/v1/webhook-secrets/${encodeURIComponent(sender.id)}`;

export async function show(content) {
  const out = new SettingsList({
    label: "Addresses that events are sent to",
    columns: ["Address", "Events", "State", ""],
    cells: (endpoint) => endpointCells(endpoint, out),
    isOver: (endpoint) => !endpoint.enabled,
    empty: { icon: icons.webhook, heading: "Nothing is sent anywhere", text: "An address gets a signed message whenever a session changes: for a chat, an alarm, a dashboard of your own." },
  });
  const senders = new SettingsList({
    label: "Systems that send events here",
    columns: ["Sender", "Last event", "State", ""],
    cells: (sender) => senderCells(sender, senders),
    isOver: isSenderOver,
    empty: { icon: icons.plug, heading: "No system sends events here", text: "What runs your agents tells of its runs and their desktops, and signs that with a secret of its own." },
  });
  withHead(out, "Events out", button("Add an address", () => openAddress(out), { class: "button" }));
  withHead(senders, "Events in", button("Add a sender", () => openSender(senders), { class: "button" }));
  content.append(
    element("p", { class: "settings-lead" }, "Messages between Deskfleet and your own systems, signed as Standard Webhooks says. A secret is shown once, when it is made."),
    element("div", { class: "settings-parts" }, out.root, senders.root));
  await learnNames();
  await Promise.all([out.read("/api/v1/webhooks"), senders.read("/api/v1/webhook-secrets")]);
}

function withHead(list, heading, add) {
  list.root.prepend(element("div", { class: "card-head" }, element("h2", {}, heading), element("span", { class: "end" }, add)));
}

// --- out ---

/** @param {Endpoint} endpoint */
const endpointName = (endpoint) => endpoint.label || hostOf(endpoint.url);

function hostOf(url) {
  try {
    return new URL(url).host;
  } catch {
    return url;
  }
}

/** @param {Endpoint} endpoint */
function endpointCells(endpoint, list) {
  const name = endpointName(endpoint);
  return [
    named(name, element("span", { dir: "auto" }, endpoint.url), element("span", { class: "table-sub" }, `made by ${nameOfPrincipal(endpoint.created_by)}`)),
    endpoint.types.length ? element("ul", { class: "settings-types" }, ...endpoint.types.map((type) => element("li", {}, type))) : `all but ${ONLY_WHEN_NAMED}`,
    endpointState(endpoint),
    rowButton("Manage", name, () => manage(endpoint, list)),
  ];
}

/** @param {Endpoint} endpoint */
function endpointState(endpoint) {
  if (!endpoint.enabled) return [badge({ tone: "quiet", label: "Disabled" }), " ", when(endpoint.disabled_at), endpoint.disabled_reason && element("span", { class: "table-sub", dir: "auto" }, endpoint.disabled_reason)];
  if (endpoint.failing_since) return [badge({ tone: "warn", label: "Failing" }), " since ", when(endpoint.failing_since)];
  return badge({ tone: "good", label: "Enabled" });
}

/** The form's fields of an address. @param {Endpoint|null} endpoint */
function addressFields(endpoint) {
  const url = element("input", { name: "url", type: "url", maxlength: "2000", autocomplete: "off", spellcheck: "false", placeholder: "https://example.com/hooks/deskfleet", autofocus: !endpoint });
  const label = element("input", { name: "label", maxlength: "200", autocomplete: "off", placeholder: "What listens there" });
  url.value = endpoint?.url ?? "";
  label.value = endpoint?.label ?? "";
  const isChosen = (type) => (endpoint?.types.length ? endpoint.types.includes(type) : type !== ONLY_WHEN_NAMED);
  const boxes = Object.entries(TYPES).map(([type, words]) => element("label", { class: "check" }, element("input", { type: "checkbox", name: "types", value: type, checked: isChosen(type) }), element("span", {}, element("span", { class: "mono" }, type), ` ${words}`)));
  return [
    field("Address", url, "Of the public internet, with https, unless the site's settings allow more."),
    field("Name", label),
    element("fieldset", { class: "settings-scopes" }, element("legend", {}, "When"), ...boxes),
  ];
}

/** @param {FormData} data */
function addressOf(data) {
  const types = data.getAll("types");
  const usual = Object.keys(TYPES).filter((type) => type !== ONLY_WHEN_NAMED);
  // The usual ones without naming them are those of later versions too.
  const isUsual = types.length === usual.length && usual.every((type) => types.includes(type));
  return { url: data.get("url").trim(), label: data.get("label").trim(), types: isUsual ? [] : types };
}

function someType(data) {
  if (data.getAll("types").length) return;
  // The API takes none for the usual ones, which nobody means who unchecks all.
  throw Object.assign(new Error("Choose at least one kind of event."), { status: 422, fields: {} });
}

function openAddress(list) {
  formDialog({
    title: "New address for events",
    wide: true,
    action: "Add address",
    parts: addressFields(null),
    send: async (data) => {
      someType(data);
      const made = await call("POST", "/api/v1/webhooks", addressOf(data));
      await list.read();
      showSecret("Copy the secret now", "What listens there checks with it that a message is from here.", made.secret);
    },
  });
}

function showSecret(title, text, secret, url = null) {
  const box = openDialog(title, [
    element("p", {}, `It is shown this once. ${text}`),
    copyField(secret, "The secret"),
    ...(url ? [element("p", {}, "Events that are signed with it go to:"), copyField(url, "The address for events")] : []),
    actions(button("Done", () => box.close(), { class: "button primary" })),
  ], { wide: true });
  box.querySelector(".copy button").focus();
}

/** @param {Endpoint} endpoint */
function manage(endpoint, list) {
  const name = endpointName(endpoint);
  const error = errorLine();
  const save = element("button", { type: "submit", class: "button primary settings-save" }, "Save");
  const form = element("form", { class: "form", novalidate: true }, ...addressFields(endpoint), save);
  const log = element("ul", { class: "settings-sign-ins", "aria-label": "Last messages" });
  const trial = button("Send a trial", () => pending(trial, error, async () => {
    await call("POST", `${at(endpoint)}/test`);
    await follow();
  }));
  const rotate = button("New secret", () => renewSecret(endpoint, list, box));
  const door = button(endpoint.enabled ? "Disable" : "Enable", () => pending(door, error, () => change({ enabled: !endpoint.enabled }, endpoint.enabled ? "gets nothing any more" : "gets events from now on")));
  const gone = button("Delete", () => remove(endpoint, list, box), { class: "button settings-risky" });
  trial.disabled = !endpoint.enabled;
  const box = openDialog(name, [
    form,
    element("h3", { class: "settings-sub" }, "Last messages"),
    log,
    error,
    element("div", { class: "settings-row" }, trial, rotate, door, gone),
    actions(button("Close", () => box.close())),
  ], { wide: true });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const data = new FormData(form);
    pending(save, error, async () => {
      someType(data);
      await change(addressOf(data), "is changed");
    });
  });
  pending(save, error, follow);

  async function change(changes, said) {
    await call("PATCH", at(endpoint), changes);
    box.close();
    toast(`“${changes.label || name}” ${said}.`);
    await list.read();
  }

  /** The last messages; while one is under way for the first time, how that goes. */
  async function follow() {
    const { items } = await call("GET", `${at(endpoint)}/deliveries?limit=${LAST_DELIVERIES}`);
    if (!box.isConnected) return;
    log.replaceChildren(...(items.length ? items.map(deliveryItem) : [element("li", { class: "hint" }, "None yet.")]));
    if (items.some((one) => one.status === "pending" && !one.attempts.length)) setTimeout(() => box.isConnected && pending(trial, error, follow).then(() => (trial.disabled = !endpoint.enabled)), LOOK_AGAIN_MS);
  }

  function deliveryItem(delivery) {
    const last = delivery.attempts.at(-1);
    const again = rowButton("Send again", `${delivery.type} ${delivery.id}`, () => pending(again, error, async () => {
      await call("POST", `${at(endpoint)}/deliveries/${encodeURIComponent(delivery.id)}/retry`);
      await follow();
    }));
    const met = last && (last.error ?? `answered ${last.status_code} after ${last.took_ms} ms`);
    const next = delivery.status === "pending" && last ? [" · again ", when(delivery.next_attempt_at)] : [];
    const isOver = delivery.status === "failed" || delivery.status === "cancelled";
    return element("li", {},
      element("span", {}, element("span", { class: "mono" }, delivery.type), " ", badge(STATES[delivery.status] ?? { tone: "quiet", label: delivery.status }),
        element("span", { class: "table-sub", dir: "auto" }, when(delivery.created_at), met ? ` · ${met}` : "", ...next)),
      isOver && endpoint.enabled ? again : null);
  }
}

function renewSecret(endpoint, list, above) {
  let made = null;
  confirmed({
    title: `A new secret for “${endpointName(endpoint)}”?`,
    text: "Messages are signed with both for 24 hours; then the one that is in use now is over.",
    action: "Make secret",
    danger: false,
    act: async () => (made = await call("POST", `${at(endpoint)}/rotate`)),
  }).then((done) => {
    if (!done) return;
    above.close();
    showSecret("Copy the new secret now", "The former one is good for 24 hours still.", made.secret);
    list.read();
  });
}

function remove(endpoint, list, above) {
  const name = endpointName(endpoint);
  confirmed({
    title: `Delete “${name}”?`,
    text: "Nothing is sent there any more, and the log of what was sent is deleted too.",
    action: "Delete address",
    act: () => call("DELETE", at(endpoint)),
  }).then((done) => {
    if (!done) return;
    above.close();
    toast(`“${name}” is deleted.`);
    list.read();
  });
}

// --- in ---

/** @param {Sender} sender */
const isSenderOver = (sender) => sender.revoked_at !== null || isPast(sender.ends_at);

/** @param {Sender} sender */
function senderCells(sender, list) {
  const name = sender.label;
  const renew = rowButton("New secret", name, () => renewSender(sender, list));
  const revoke = rowButton("Revoke", name, () => revokeSender(sender, list));
  return [
    named(name, `${sender.id} · made by ${nameOfPrincipal(sender.created_by)}`),
    when(sender.last_used_at),
    senderState(sender),
    isSenderOver(sender) ? "" : element("span", { class: "settings-buttons" }, sender.ends_at ? null : renew, revoke),
  ];
}

/** @param {Sender} sender */
function senderState(sender) {
  if (sender.revoked_at) return [badge({ tone: "quiet", label: "Revoked" }), " ", when(sender.revoked_at)];
  if (isPast(sender.ends_at)) return [badge({ tone: "quiet", label: "Over" }), " ", when(sender.ends_at)];
  if (sender.ends_at) return [badge({ tone: "warn", label: "Replaced" }), " good ", when(sender.ends_at)];
  return badge({ tone: "good", label: "Good" });
}

function openSender(list) {
  formDialog({
    title: "New sender of events",
    action: "Make secret",
    parts: [field("Name", element("input", { name: "label", maxlength: "200", autocomplete: "off", placeholder: "What sends, such as openclaw on box7", autofocus: true }))],
    send: async (data) => {
      const made = await call("POST", "/api/v1/webhook-secrets", { label: data.get("label").trim() });
      await list.read();
      showSenderOnce(made);
    },
  });
}

const showSenderOnce = (made) => showSecret("Copy the secret now", "Whoever has it tells of runs in your tenant's name.", made.secret, made.url);

/** @param {Sender} sender */
function renewSender(sender, list) {
  let made = null;
  confirmed({
    title: `A new secret for “${sender.label}”?`,
    text: "The one that is in use now is good for 24 hours still. The address stays good.",
    action: "Make secret",
    danger: false,
    act: async () => (made = await call("POST", `${atSender(sender)}/rotate`, {})),
  }).then((done) => done && (showSenderOnce(made), list.read()));
}

/** @param {Sender} sender */
function revokeSender(sender, list) {
  confirmed({
    title: `Revoke “${sender.label}”?`,
    text: "What is signed with it is refused at once. It cannot be brought back.",
    action: "Revoke secret",
    act: () => call("DELETE", atSender(sender)),
  }).then((done) => done && (toast(`“${sender.label}” is revoked.`), list.read()));
}
