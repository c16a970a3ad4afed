// The share links to all desktops: which are open, to whom, and an end to each.

import { call } from "../api.js";
import { browserName } from "../browsers.js";
import { confirmed } from "../dialogs.js";
import { badge, element } from "../dom.js";
import * as icons from "../icons.js";
import { shortId } from "../session.js";
import { when } from "../times.js";
import { toast } from "../toast.js";
import { SettingsList, named, rowButton } from "./list.js";
import { learnNames, nameOfPrincipal } from "./principals.js";

/** @typedef {import("../viewer/share-dialog.js").Share & {session_id: string, created_by: string}} Share */

export async function show(content) {
  const list = new SettingsList({
    label: "Share links",
    columns: ["Link", "Desktop", "State", "Opened by", ""],
    cells: (share) => cells(share, list),
    isOver: (share) => share.is_over,
    empty: { icon: icons.share, heading: "Nothing is shared", text: "“Share” at a desktop makes a link by which somebody without an account watches it." },
  });
  content.append(element("p", { class: "settings-lead" }, "Whoever has such a link watches that one desktop, until the link or the desktop is over."), list.root);
  await learnNames();
  await list.read("/api/v1/shares");
}

/** @param {Share} share */
function cells(share, list) {
  const name = share.label ?? "A link";
  const sub = ["made by ", nameOfPrincipal(share.created_by), " ", when(share.created_at), share.single_use ? " · one browser" : ""];
  return [
    named(name, ...sub),
    element("a", { class: "mono", href: `/sandboxes/${share.session_id}` }, shortId(share.session_id)),
    stateOf(share),
    share.visits.length ? element("ul", { class: "settings-visits" }, ...share.visits.map(visitItem)) : "nobody yet",
    share.is_over ? "" : rowButton("Revoke", name, () => revoke(share, name, list)),
  ];
}

/** @param {Share} share */
function stateOf(share) {
  if (share.revoked_at) return [badge({ tone: "quiet", label: "Revoked" }), " ", when(share.revoked_at)];
  if (share.is_over) return badge({ tone: "quiet", label: "Over" });
  return [badge({ tone: "good", label: "Open" }), " ends ", when(share.expires_at)];
}

function visitItem(visit) {
  return element("li", { title: visit.user_agent ?? "" }, `${browserName(visit.user_agent)}, ${visit.address ?? "unknown address"}, seen `, when(visit.last_seen_at));
}

function revoke(share, name, list) {
  confirmed({
    title: `Revoke “${name}”?`,
    text: "Whoever watches by it is out within seconds.",
    action: "Revoke link",
    act: () => call("DELETE", `/api/v1/sessions/${encodeURIComponent(share.session_id)}/shares/${encodeURIComponent(share.id)}`),
  }).then((done) => done && (toast(`“${name}” is revoked.`), list.read()));
}
