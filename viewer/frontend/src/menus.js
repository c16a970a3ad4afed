// <details class="menu">: closed by Esc, by a choice, and by whatever else gets the attention.

const open = () => document.querySelectorAll("details.menu[open]");

let begun = false;

/** Once for the page; menus that are made later count too. */
export function openMenus() {
  if (begun) return;
  begun = true;
  addEventListener("click", (event) => closeAllBut((menu) => menu.contains(event.target) && !event.target.closest("a, button:not([aria-pressed], [type=submit])")));
  // A frame that gets the focus: its clicks are not heard here.
  addEventListener("blur", () => closeAllBut(() => false));
  addEventListener("focusin", (event) => closeAllBut((menu) => menu.contains(event.target)));
  addEventListener("keydown", pressed, { capture: true });
}

function closeAllBut(stays) {
  for (const menu of open()) if (!stays(menu)) menu.open = false;
}

function pressed(event) {
  const menu = [...open()].at(-1);
  if (!menu || !menu.contains(document.activeElement)) return;
  if (event.key === "Escape") {
    event.stopPropagation();
    menu.open = false;
    menu.querySelector("summary").focus();
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const choices = [...menu.querySelectorAll("summary, .menu-panel :is(a, button, input)")].filter((one) => !one.disabled && one.checkVisibility());
  const next = choices[(choices.indexOf(document.activeElement) + step + choices.length) % choices.length];
  if (document.activeElement.matches("input[type=radio]")) return;
  event.preventDefault();
  next?.focus();
}
