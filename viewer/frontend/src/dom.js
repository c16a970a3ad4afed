// Small ways to make and fill elements. Text always goes in as text.

const SVG = "http://www.w3.org/2000/svg";

// Our own strokes on a 20 by 20 grid.
const ICONS = {
  refresh: "M16 6.5A7 7 0 1 0 17 11M16 3v3.5h-3.5",
  fullscreen: "M3.5 7.5v-4h4M12.5 3.5h4v4M16.5 12.5v4h-4M7.5 16.5h-4v-4",
  shrink: "M7.5 3.5v4h-4M12.5 3.5v4h4M16.5 12.5h-4v4M3.5 12.5h4v4",
  tab: "M11.5 3.5h5v5M16.5 3.5l-7 7M8 4.5H5A1.5 1.5 0 0 0 3.5 6v9A1.5 1.5 0 0 0 5 16.5h9a1.5 1.5 0 0 0 1.5-1.5v-3",
  stop: "M10 3v6M6 5.2a6.5 6.5 0 1 0 8 0",
  clipboard: "M7 4.5H5.5A1.5 1.5 0 0 0 4 6v9.5A1.5 1.5 0 0 0 5.5 17h9a1.5 1.5 0 0 0 1.5-1.5V6a1.5 1.5 0 0 0-1.5-1.5H13M7.5 3h5v3h-5zM7 10h6M7 13h4",
  back: "M12.5 4.5 7 10l5.5 5.5",
  screen: "M3 4.5h14v9H3zM7.5 16.5h5M10 13.5v3",
  moon: "M15.5 12A6.5 6.5 0 0 1 8 4.5a6.5 6.5 0 1 0 7.5 7.5z",
  warning: "M10 3.5 17.5 16h-15zM10 8v4M10 14v.2",
  share: "M15 6.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM5 12a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM15 17.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM6.8 9.1l6.4-3.6M6.8 10.9l6.4 3.6",
  plug: "M7 3v4M13 3v4M5 7h10v2.5a5 5 0 0 1-10 0zM10 14.5V17",
};

/** @param {keyof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** element("p", {class: "x", hidden: true}, "text", child, null): null children are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function iconButton(name, label, onClick, attributes = {}) {
  const button = element("button", { type: "button", class: "icon-button", title: label, "aria-label": label, ...attributes }, icon(name));
  button.addEventListener("click", onClick);
  return button;
}

export function relabel(button, iconName, label) {
  button.title = label;
  button.setAttribute("aria-label", label);
  button.replaceChildren(icon(iconName));
}

/** Write only what differs: a live region that is written again is read out again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A quiet word behind a name, at the end of `node`; none for "". */
export function setTag(node, text) {
  const shown = node.querySelector(".tag");
  if ((shown?.textContent ?? "") === text) return;
  shown?.remove();
  if (text) node.append(element("span", { class: "tag" }, text));
}

export function badge({ tone, label }) {
  return element("span", { class: "badge", "data-tone": tone }, element("i", { class: "dot" }), label);
}
