// Times in words that stay true while the page is open, with the exact one to hover.

import { serverNow } from "./api.js";
import { element, setText } from "./dom.js";
import { ago, duration, exactly } from "./session.js";

const WORDS_EVERY_MS = 5000;
/** The server's clock is known to a second or two: what has just happened must not be to come. */
const NOW_MS = 5000;

let timer = 0;

/** "4 min ago", "in 3 d". @param {string|null} iso @param {string} never what stands there without a time */
export function when(iso, never = "never") {
  if (!iso) return element("span", {}, never);
  timer ||= setInterval(refresh, WORDS_EVERY_MS);
  return element("time", { datetime: iso, title: exactly(iso), "data-words": true }, inWords(iso));
}

function inWords(iso) {
  const left = Date.parse(iso) - serverNow();
  return left > NOW_MS ? `in ${duration(left)}` : ago(-left);
}

function refresh() {
  for (const one of document.querySelectorAll("time[data-words]")) setText(one, inWords(one.dateTime));
}

/** @param {string|null} iso */
export const isPast = (iso) => iso !== null && Date.parse(iso) <= Date.now();
