// The way to another origin: a one-time ticket from the viewer, posted as a form to that origin's door.

import { call } from "./api.js";
import { element } from "./dom.js";

/** A fresh ticket; throws a Problem. @param {string} entries address of the API that gives it out @param {object} [wanted] what for @param {{call: typeof call}} [connection] */
export const ticketFrom = (entries, wanted, connection = { call }) => connection.call("POST", entries, wanted);

/**
 * Post the ticket. @param {{url: string, ticket: string}} entry
 * @param {{next?: string, target?: string, within?: HTMLElement}} to `next`: path there; `target`: name of a frame, else this very window
 * `within`: element that holds the form while it is sent
 */
export function goThrough(entry, { next = "/", target = "_self", within = document.body } = {}) {
  const form = element("form", { method: "post", action: entry.url, target, hidden: true },
    element("input", { type: "hidden", name: "ticket", value: entry.ticket }),
    element("input", { type: "hidden", name: "next", value: next }));
  within.append(form);
  form.submit();
  form.remove();
}
