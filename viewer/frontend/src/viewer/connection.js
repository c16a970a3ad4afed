// How a <sandbox-viewer> reaches its fleet: nothing else under `viewer/` asks the page it is on who is signed in, or where
// the API is. A page of another origin gives its element a connection of its own.

import { call, goToSignIn, picture } from "../api.js";
import { streamOf } from "./early.js";

/**
 * @typedef {object} Connection
 * @property {string} base origin of the viewer, "" for the page's own; addresses that the API names begin with it or are whole
 * @property {"watcher"|"operator"|"admin"|""} role what this page may do there; the server is what enforces it
 * @property {boolean} isForeign is the page on another origin than the viewer?
 * @property {(method: string, path: string, body?: object) => Promise<any>} call the parsed answer; throws a Problem
 * @property {(sessionId: string, options: {shared: boolean}) => WebSocket} openStream
 * @property {(path: string) => Promise<Blob>} [picture] the picture at that path of the API; throws a Problem
 * @property {() => void} [signedOut] the API has said 401
 */

/** The page's own viewer, by the cookie of whoever is signed in there. @type {Connection} */
export const ownPage = {
  base: "",
  get role() {
    return document.body.dataset.role ?? "";
  },
  isForeign: false,
  call,
  picture,
  openStream: streamOf,
  signedOut: goToSignIn,
};

/** Whether what a page of that connection is offered is to watch. @param {Connection} connection */
export const onlyWatches = ({ role }) => role === "watcher" || role === "";
