// A document as its type is shown: in the tray.

import { serverNow } from "../api.js";
import { element, icon } from "../dom.js";
import * as icons from "../icons.js";
import { ago, badgeOf, exactly, isOver, nameOf } from "../session.js";
import { contentOf, sizeName, typeIcon } from "./document.js";
import { setHarmless } from "./harmless.js";

/** @param {import("./document.js").DocumentView} view @param {import("../live.js").Live|null} live of the page, for a session's viewer */
export function contentNode(view, live) {
  const { document, text, html } = view;
  if (document.type === "sandbox") return desktopNode(view, live);
  if (document.type === "image") return imageNode(document);
  if (document.type === "file") return fileNode(document);
  const node = element("div", { class: document.type === "markdown" ? "prose" : "source", dir: document.type === "markdown" ? "auto" : "ltr" });
  // What is scrolled must be reached by keyboard, too.
  if (html !== null) setHarmless(node, html);
  else node.append(element("pre", {}, text ?? ""));
  for (const scrolled of node.querySelectorAll("pre")) scrolled.tabIndex = 0;
  if (!document.size) return note("It is empty.");
  if (view.is_cut) return element("div", { class: "document-cut" }, node, element("p", { class: "notice" }, icon(icons.document), element("span", {}, `Only the beginning is shown of ${sizeName(document.size)}. Download it to read on.`)));
  return node;
}

function imageNode(document) {
  // Its address changes with its content: what was kept of another one is not shown.
  const image = element("img", { class: "document-image", alt: document.title, src: `${contentOf(document.id)}?sha256=${document.sha256}`, decoding: "async" });
  const box = element("div", { class: "document-image-box" }, image);
  image.addEventListener("error", () => box.replaceChildren(note("The picture could not be shown.")));
  return box;
}

function fileNode(document) {
  return element("div", { class: "empty" }, icon(typeIcon(document)),
    element("p", { class: "empty-heading", dir: "auto" }, document.path?.split("/").at(-1) || document.title),
    element("p", {}, `${document.media_type} · ${sizeName(document.size)}`),
    element("a", { class: "button", href: contentOf(document.id), download: "" }, icon(icons.download), "Download"));
}

function desktopNode({ document, session }, live) {
  if (!session) return note("The session is gone", "It ended so long ago that it is no longer kept.");
  if (isOver(session) || !live) return overNode(session);
  const holder = element("div", { class: "document-desktop" });
  // Only those who look at a desktop load what shows one.
  import("../viewer/sandbox-viewer.js").then(
    () => {
      const viewer = element("sandbox-viewer", { session: document.session_id, fill: true });
      viewer.live = live;
      holder.append(viewer);
    },
    () => holder.append(note("Part of this page could not be loaded.", "Reload it to try again.")),
  );
  return holder;
}

function overNode(session) {
  const { label } = badgeOf(session);
  const ended = session.terminated_at ?? session.updated_at;
  return element("div", { class: "empty" }, icon(icons.screen),
    element("p", { class: "empty-heading" }, `${label}: desktop ${nameOf(session)}`),
    element("p", {}, element("time", { datetime: ended, title: exactly(ended) }, isOver(session) ? `It ended ${ago(serverNow() - Date.parse(ended))}.` : "")),
    session.error_message && element("p", { dir: "auto" }, session.error_message),
    element("a", { class: "button", href: `/sandboxes/${session.id}` }, "Open the session"));
}

function note(heading, text = "") {
  return element("div", { class: "empty" }, element("p", { class: "empty-heading" }, heading), text && element("p", {}, text));
}
