// Settings: one part beside the list of all.

import { icon } from "../dom.js";
import "../header.js";
import * as icons from "../icons.js";

const ICONS = { keys: icons.key, people: icons.people, shares: icons.share, webhooks: icons.webhook, audit: icons.log, appearance: icons.look, account: icons.person };
const LOOKS = { system: icons.screen, light: icons.sun, dark: icons.moon };
const PARTS = {
  keys: () => import("../settings/keys.js"),
  people: () => import("../settings/people.js"),
  shares: () => import("../settings/shares.js"),
  webhooks: () => import("../settings/webhooks.js"),
  audit: () => import("../settings/audit.js"),
};

const page = document.querySelector(".settings");
for (const link of page.querySelectorAll(".settings-nav [data-section]")) link.querySelector(".settings-icon").append(icon(ICONS[link.dataset.section]));
for (const choice of page.querySelectorAll("[data-icon]")) choice.prepend(icon(LOOKS[choice.dataset.icon]));

const part = await PARTS[page.dataset.section]?.();
await part?.show(page.querySelector("#settings-content"), page.querySelector("#settings-actions"));
