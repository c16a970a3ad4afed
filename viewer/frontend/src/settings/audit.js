// The audit log: who did what; conditions stand in the address, so that a view can be passed on.

import { call } from "../api.js";
import { browserName } from "../browsers.js";
import { errorLine, field, pending, select } from "../dialogs.js";
import { badge, element } from "../dom.js";
import * as icons from "../icons.js";
import { exactly, inWords, shortId } from "../session.js";
import { when } from "../times.js";
import { SettingsList } from "./list.js";
import { learnNames, nameOfPrincipal } from "./principals.js";

/**
 * @typedef {object} Entry as in the API
 * @property {number} number
 * @property {string} at
 * @property {string} principal
 * @property {string} principal_name
 * @property {string|null} address
 * @property {string} action
 * @property {string|null} target
 * @property {"done"|"refused"|"failed"} outcome
 * @property {Record<string, unknown>|null} detail
 */

const CONDITIONS = ["action", "principal", "target", "since", "until"];
const TONES = { done: "good", refused: "warn", failed: "bad" };

export async function show(content, head) {
  const list = new SettingsList({
    label: "Audit log",
    columns: ["When", "Who", "What", "To what", "Outcome", "Detail"],
    cells,
    isOver: () => false,
    empty: { icon: icons.log, heading: "No entries", text: "Nothing in the log fulfils these conditions." },
  });
  const exports = ["csv", "ndjson"].map((format) => element("a", { class: "button", download: "", "data-format": format }, `Export ${format.toUpperCase()}`));
  head.append(...exports);
  const form = filters();
  const apply = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
    for (const link of exports) link.href = `/api/v1/audit/export?${new URLSearchParams([...query, ["format", link.dataset.format]])}`;
    clear.hidden = !query.size;
    return list.read(`/api/v1/audit?${query}`);
  };
  const clear = form.querySelector("[data-clear]");
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => (event.preventDefault(), apply()));
  clear.addEventListener("click", () => {
    for (const name of CONDITIONS) form.elements.namedItem(name).value = "";
    apply();
  });
  // A name or a target in the list is a condition at hand.
  list.root.addEventListener("click", ({ target }) => {
    const one = target.closest("[data-condition]");
    if (!one) return;
    form.elements.namedItem(one.dataset.condition).value = one.value;
    apply();
  });
  content.append(chainCard(), form, list.root);
  await learnNames();
  await apply();
}

function filters() {
  const known = new URLSearchParams(location.search);
  const action = select("action", [["", "Any"]], "");
  action.append(document.querySelector("#audit-actions").content.cloneNode(true));
  const text = (name, placeholder) => element("input", { name, placeholder, autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: "200" });
  const form = element("form", { class: "toolbar settings-filters", "aria-label": "Conditions" },
    field("Action", action),
    field("Who", text("principal", "person:… or key:…")),
    field("To what", text("target", "session:…")),
    field("From", element("input", { name: "since", type: "date" })),
    field("Before", element("input", { name: "until", type: "date" })),
    element("button", { type: "button", class: "button plain", "data-clear": true, hidden: true }, "Clear"),
    element("button", { type: "submit", class: "visually-hidden" }, "Apply"));
  for (const name of CONDITIONS) form.elements.namedItem(name).value = known.get(name) ?? "";
  return form;
}

/** @param {Entry} entry */
function cells(entry) {
  const kind = entry.principal.split(":")[0];
  const who = condition("principal", entry.principal, entry.principal_name || entry.principal);
  const sub = [kind === entry.principal ? null : kind.replace("_", " "), entry.address].filter(Boolean).join(" · ");
  return [
    [when(entry.at), element("span", { class: "table-sub" }, `No. ${entry.number}`)],
    [who, element("span", { class: "table-sub" }, sub)],
    element("span", { class: "mono" }, entry.action),
    targetCell(entry.target),
    badge({ tone: TONES[entry.outcome] ?? "quiet", label: inWords(entry.outcome) }),
    entry.detail ? element("dl", { class: "settings-detail" }, ...Object.entries(entry.detail).map(detailLine)) : "",
  ];
}

function condition(name, value, label) {
  return element("button", { type: "button", class: "link-button", dir: "auto", "data-condition": name, value, title: `Only ${value}` }, label);
}

/** @param {string|null} target */
function targetCell(target) {
  if (!target) return "";
  const [kind, ident = ""] = target.split(/:(.*)/s);
  const words = /^[0-9a-f]{8}-/.test(ident) ? shortId(ident) : ident;
  const only = condition("target", target, `${kind.replace("_", " ")} ${words}`);
  return kind === "session" ? [only, " ", element("a", { href: `/sandboxes/${ident}`, "aria-label": `Open session ${words}` }, "open")] : only;
}

function detailLine([name, value]) {
  return element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", { dir: "auto", title: typeof value === "string" ? value : null }, name === "user_agent" ? browserName(String(value)) : readable(value)));
}

/** What JSON holds, as somebody reads it. */
function readable(value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  if (value === null) return "none";
  if (Array.isArray(value)) return value.map(readable).join(", ");
  if (value === "") return "none";
  if (typeof value === "object") return Object.entries(value).map(([name, one]) => `${name} ${readable(one)}`).join(", ");
  if (/^(person|key|link|share):/.test(value)) return nameOfPrincipal(value);
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value)) return shortId(value);
  return /^\d{4}-\d\d-\d\dT/.test(String(value)) ? exactly(value) : String(value);
}

/** Whether the log is as it was written, asked for by a button: it reads thousands of entries. */
function chainCard() {
  const error = errorLine();
  const said = element("p", { class: "notice settings-chain", role: "status" }, element("span", {}, "Each entry is sealed with the one before it, so that a change by hand shows."));
  const check = element("button", { type: "button", class: "button small" }, "Check the chain");
  said.append(check);
  check.addEventListener("click", () => pending(check, error, async () => {
    const { checked, of, problems } = await call("GET", "/api/v1/audit/chain");
    said.dataset.tone = problems.length ? "bad" : "good";
    const all = checked === of ? `All ${of} entries are` : `The newest ${checked} of ${of} entries are`;
    said.firstChild.textContent = problems.length ? problems.join(" ") : `${all} as they were written.`;
  }));
  return element("div", {}, said, error);
}
