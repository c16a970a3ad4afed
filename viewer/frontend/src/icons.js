// The icons in use, of Lucide, each by the word that we have for what it does. Import them as `icons`: only what a page
// names is in its bundle. An icon is the shapes inside a square of 24: [tag, attributes] each.

export { default as back } from "lucide/dist/esm/icons/chevron-left.mjs";
export { default as check } from "lucide/dist/esm/icons/check.mjs";
export { default as clipboard } from "lucide/dist/esm/icons/clipboard.mjs";
export { default as document } from "lucide/dist/esm/icons/file-text.mjs";
export { default as failed } from "lucide/dist/esm/icons/circle-x.mjs";
export { default as fullscreen } from "lucide/dist/esm/icons/maximize.mjs";
export { default as help } from "lucide/dist/esm/icons/hand-helping.mjs";
export { default as host } from "lucide/dist/esm/icons/server.mjs";
export { default as key } from "lucide/dist/esm/icons/key-round.mjs";
export { default as link } from "lucide/dist/esm/icons/link.mjs";
export { default as log } from "lucide/dist/esm/icons/scroll-text.mjs";
export { default as look } from "lucide/dist/esm/icons/palette.mjs";
export { default as moon } from "lucide/dist/esm/icons/moon.mjs";
export { default as ok } from "lucide/dist/esm/icons/circle-check.mjs";
export { default as people } from "lucide/dist/esm/icons/users.mjs";
export { default as person } from "lucide/dist/esm/icons/user.mjs";
export { default as plug } from "lucide/dist/esm/icons/unplug.mjs";
export { default as plus } from "lucide/dist/esm/icons/plus.mjs";
export { default as refresh } from "lucide/dist/esm/icons/refresh-cw.mjs";
export { default as screen } from "lucide/dist/esm/icons/monitor.mjs";
export { default as settings } from "lucide/dist/esm/icons/settings.mjs";
export { default as share } from "lucide/dist/esm/icons/share-2.mjs";
export { default as shrink } from "lucide/dist/esm/icons/minimize.mjs";
export { default as skipped } from "lucide/dist/esm/icons/circle-minus.mjs";
export { default as stop } from "lucide/dist/esm/icons/power.mjs";
export { default as sun } from "lucide/dist/esm/icons/sun.mjs";
export { default as tab } from "lucide/dist/esm/icons/external-link.mjs";
export { default as task } from "lucide/dist/esm/icons/list-checks.mjs";
export { default as wall } from "lucide/dist/esm/icons/layout-grid.mjs";
export { default as warning } from "lucide/dist/esm/icons/triangle-alert.mjs";
export { default as webhook } from "lucide/dist/esm/icons/webhook.mjs";
