// Small ways to make and fill elements. Text always goes in as text.

const SVG = "http://www.w3.org/2000/svg";

/** @param {[string, Record<string, string>][]} shapes of `icons` */
export function icon(shapes) {
  const svg = shape("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" });
  svg.append(...shapes.map(([tag, attributes]) => shape(tag, attributes)));
  return svg;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
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

export function iconButton(shapes, label, onClick, attributes = {}) {
  const button = element("button", { type: "button", class: "icon-button", title: label, "aria-label": label, ...attributes }, icon(shapes));
  button.addEventListener("click", onClick);
  return button;
}

export function relabel(button, shapes, label) {
  button.title = label;
  button.setAttribute("aria-label", label);
  button.replaceChildren(icon(shapes));
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
  return element("span", { class: "badge", "data-tone": tone }, element("i", { class: "dot" }), element("span", {}, label));
}

/** Instead of what a part would show whose code did not come. */
export const NOT_LOADED = "Part of this page could not be loaded. Reload it to try again.";
