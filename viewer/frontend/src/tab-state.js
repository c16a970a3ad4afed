// What the browser's tab says: how many desktops need a person, and whether the server answers. In front of whatever
// title the page gives itself, and on the icon, which is seen where titles are cut off.

const SIZE = 32;
const title = document.querySelector("title");
const link = document.querySelector("link[rel=icon]");
const own = link?.getAttribute("href");

let state = { needing: 0, connection: "live" };
let shownPrefix = "";
let drawn = "";
/** @type {Promise<HTMLImageElement>|null} */
let logo = null;

/** @param {{needing?: number, connection?: "connecting"|"live"|"reconnecting"|"offline"}} said what is not said stays as it was */
export function showTabState(said) {
  state = { ...state, ...said };
  retitle();
  redraw();
}

const isAway = () => state.connection === "offline" || state.connection === "reconnecting";
const prefix = () => (isAway() ? "Offline · " : state.needing ? `(${state.needing}) ` : "");

function retitle() {
  const wanted = prefix();
  const bare = shownPrefix && document.title.startsWith(shownPrefix) ? document.title.slice(shownPrefix.length) : document.title;
  shownPrefix = wanted;
  if (document.title !== wanted + bare) document.title = wanted + bare;
}

// Pages write their titles without knowing of this.
new MutationObserver(() => shownPrefix && !document.title.startsWith(shownPrefix) && retitle()).observe(title, { childList: true, characterData: true, subtree: true });

async function redraw() {
  if (!link) return;
  const wanted = isAway() ? "away" : state.needing ? String(Math.min(state.needing, 10)) : "";
  if (wanted === drawn) return;
  drawn = wanted;
  const href = wanted ? await badged(wanted) : own;
  // Another state may have come while the image was read.
  if (drawn !== wanted || !href) return;
  link.type = wanted ? "image/png" : "image/svg+xml";
  link.setAttribute("href", href);
}

/** The logo with a number in its corner, as an address that the page's policy allows. */
async function badged(wanted) {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE });
  const pen = canvas.getContext("2d");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  try {
    pen.globalAlpha = wanted === "away" ? 0.35 : 1;
    pen.drawImage(await (logo ??= loaded()), 0, 0, SIZE, SIZE);
  } catch {
    logo = null;
    return null;
  }
  pen.globalAlpha = 1;
  if (wanted === "away") return canvas.toDataURL();
  pen.fillStyle = BADGE;
  pen.beginPath();
  pen.arc(21, 21, 11, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = ON_BADGE;
  pen.font = `700 ${wanted === "10" ? 13 : 17}px ${colour("--font")}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(wanted === "10" ? "9+" : wanted, 21, 22);
  return canvas.toDataURL();
}

// Tabs are drawn by the browser: they know neither our tokens nor our theme.
const BADGE = "#d9480f";
const ON_BADGE = "#ffffff";

async function loaded() {
  const image = new Image(SIZE, SIZE);
  image.src = own;
  await image.decode();
  return image;
}
