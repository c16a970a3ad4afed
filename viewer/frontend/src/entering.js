// The way to another origin: a one-time ticket from the viewer, posted as a form to that origin's door.

import { call } from "./api.js";
import { element } from "./dom.js";

/** A fresh ticket; throws a Problem. @param {string} entries address of the API that gives it out @param {object} [wanted] what for */
export const ticketFrom = (entries, wanted) => call("POST", entries, wanted);

/**
 * Post the ticket. @param {{url: string, ticket: string}} entry
 * @param {{next?: string, target?: string}} to `next`: path there; `target`: name of a frame, else this very window
 */
export function goThrough(entry, { next = "/", target = "_self" } = {}) {
  const form = element("form", { method: "post", action: entry.url, target, hidden: true },
    element("input", { type: "hidden", name: "ticket", value: entry.ticket }),
    element("input", { type: "hidden", name: "next", value: next }));
  document.body.append(form);
  form.submit();
  form.remove();
}
