// The present picture as a file: of the capture, which has it whole whatever is shown here; else of this very page.

import { element } from "../dom.js";
import { nameOf } from "../session.js";

/**
 * @param {HTMLElement} parent holds the link while it is followed
 * @param {{session: import("../session.js").Session, stream: object|null, connection: import("./connection.js").Connection}} of
 * @throws {Error} whose message says why there is none
 */
export async function saveScreenshot(parent, { session, stream, connection }) {
  const picture = await pictureOf({ session, stream, connection });
  const link = element("a", { href: URL.createObjectURL(picture), download: fileName(session, new Date()), hidden: true });
  parent.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function pictureOf({ session, stream, connection }) {
  let problem = new Error("There is no picture of this desktop yet.");
  try {
    if (connection.picture) return await connection.picture(`/api/v1/sessions/${encodeURIComponent(session.id)}/screenshot?format=png`);
  } catch (refused) {
    problem = refused;
  }
  const own = await stream?.picture();
  if (!own) throw problem;
  return own;
}

/** "3f2a9c11-20261130-140507.png", in the reader's own time. @param {import("../session.js").Session} session @param {Date} at */
export function fileName(session, at) {
  const two = (number) => String(number).padStart(2, "0");
  const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join("");
  const time = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join("");
  return `${nameOf(session).replace(/[^\w.-]+/g, "-")}-${day}-${time}.png`;
}
