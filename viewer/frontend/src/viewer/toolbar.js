// The buttons of the bar, and which of them do something just now. Those that a narrow or compact viewer leaves out are in its menu.

import { element, icon, iconButton, relabel } from "../dom.js";
import * as icons from "../icons.js";
import { isOver } from "../session.js";

/**
 * @typedef {object} Seen what decides it
 * @property {import("../session.js").Session|null} session
 * @property {string} id of the wanted session
 * @property {boolean} connected
 * @property {boolean} onlyWatches
 * @property {boolean} isMine has this page keyboard and mouse?
 * @property {boolean} isBare
 * @property {boolean} isForeign on a page of another origin, whose visitors may have no sign-in here
 * @property {boolean} isShared
 *
 * @typedef {{name: string, icon: object, label: string, is: (seen: Seen) => {hidden?: boolean, disabled?: boolean}}} Control
 */

const isLive = ({ session }) => Boolean(session) && !isOver(session);

/** In the order of the bar. @type {Control[]} */
const CONTROLS = [
  { name: "clipboard", icon: icons.clipboard, label: "Clipboard", is: (seen) => ({ hidden: seen.onlyWatches, disabled: !seen.connected || !seen.isMine }) },
  { name: "keys", icon: icons.keyboard, label: "Keys", is: (seen) => ({ hidden: seen.onlyWatches, disabled: !seen.connected || !seen.isMine }) },
  { name: "refresh", icon: icons.refresh, label: "Reconnect", is: (seen) => ({ disabled: !seen.id }) },
  { name: "fullscreen", icon: icons.fullscreen, label: "Full screen", is: (seen) => ({ hidden: !document.fullscreenEnabled, disabled: !seen.session }) },
  { name: "tab", icon: icons.tab, label: "Open in a new tab", is: (seen) => ({ hidden: seen.isBare || seen.isForeign, disabled: !isLive(seen) }) },
  { name: "share", icon: icons.share, label: "Share", is: (seen) => ({ hidden: seen.onlyWatches || seen.session?.display === "none", disabled: !isLive(seen) }) },
  { name: "more", icon: icons.more, label: "More", is: (seen) => ({ disabled: !seen.session }) },
  { name: "terminate", icon: icons.stop, label: "Terminate", is: (seen) => ({ hidden: seen.onlyWatches || seen.session?.kind === "desktop", disabled: !isLive(seen) }) },
];

export class Toolbar {
  /** @type {Record<string, HTMLElement>} */
  buttons = {};

  /** @param {Record<string, () => void>} acts what a click does, by the control's name */
  constructor(acts) {
    for (const { name, icon: shapes, label } of CONTROLS) {
      this.buttons[name] = name === "tab"
        ? element("a", { class: "icon-button", role: "link", target: "_blank", rel: "noopener", title: label, "aria-label": label, "data-control": name }, icon(shapes))
        : iconButton(shapes, label, () => acts[name](), { "data-control": name });
    }
    for (const name of ["clipboard", "keys"]) this.buttons[name].setAttribute("aria-expanded", "false");
    this.buttons.more.setAttribute("aria-haspopup", "menu");
    this.node = element("div", { class: "viewer-controls", role: "toolbar", "aria-label": "Desktop" }, ...Object.values(this.buttons));
  }

  /** @param {Seen} seen @param {string} tabAddress */
  show(seen, tabAddress) {
    for (const { name, is } of CONTROLS) {
      const { hidden = false, disabled = false } = is(seen);
      const button = this.buttons[name];
      button.hidden = hidden;
      if (name !== "tab") button.disabled = disabled;
      else if (disabled || !tabAddress) button.removeAttribute("href");
      else button.href = tabAddress;
    }
  }

  showFullscreen(isFull) {
    relabel(this.buttons.fullscreen, isFull ? icons.shrink : icons.fullscreen, isFull ? "Leave full screen" : "Full screen");
  }

  setExpanded(name, isOpen) {
    this.buttons[name].setAttribute("aria-expanded", String(isOpen));
  }

  /** What a menu has to offer instead: offered just now, and left out of the bar by its width. */
  leftOut() {
    return CONTROLS.filter(({ name }) => name !== "more" && !this.buttons[name].hidden && !this.buttons[name].getClientRects().length)
      .map(({ name, icon: shapes, label }) => ({ name, icon: shapes, label, button: this.buttons[name] }));
  }

  /** Where the focus goes when the desktop gives the keyboard back. */
  focus() {
    [this.buttons.refresh, this.buttons.more].find((button) => button.getClientRects().length)?.focus();
  }
}
