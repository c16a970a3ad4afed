// What a document's fields mean in words, and what is asked of the API about documents.

import { call } from "../api.js";
import * as icons from "../icons.js";

/**
 * @typedef {object} Document as in the API
 * @property {string} id
 * @property {string|null} task_id
 * @property {string|null} agent_id
 * @property {string|null} session_id
 * @property {"sandbox"|"text"|"code"|"markdown"|"image"|"file"} type
 * @property {string} title
 * @property {string|null} path
 * @property {string} media_type
 * @property {string|null} language
 * @property {number} size
 * @property {string} sha256
 * @property {string} created_at
 * @property {string} updated_at
 *
 * @typedef {object} DocumentView
 * @property {Document} document
 * @property {string|null} html harmless: made and checked by the server (`viewer/rendering.py`)
 * @property {string|null} text
 * @property {boolean} is_cut
 * @property {import("../session.js").Session|null} session
 */

const NAMES = { sandbox: "Desktop", text: "Text", code: "Code", markdown: "Markdown", image: "Image", file: "File" };
const ICONS = { sandbox: icons.screen, text: icons.document, code: icons.code, markdown: icons.markdown, image: icons.image, file: icons.file };

/** @param {Document} document */
export const typeName = (document) => NAMES[document.type] ?? document.type;
/** @param {Document} document */
export const typeIcon = (document) => ICONS[document.type] ?? icons.file;

/** "812 B", "14 KB", "3.2 MB". */
export function sizeName(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${Math.round(bytes / 1000)} KB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** The page of a task. An id that no path can hold is wrapped: see viewer/task_addresses.py. */
export function taskPage(id) {
  return `/tasks/${/^\.{1,2}$|^~|[/\\]/.test(id) ? wrapped(id) : encodeURIComponent(id)}`;
}

function wrapped(id) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(id));
  return `~${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

const at = (id) => `/api/v1/documents/${encodeURIComponent(id)}`;
export const documentPage = (id) => `/documents/${encodeURIComponent(id)}`;
export const contentOf = (id) => `${at(id)}/content`;
/** @returns {Promise<DocumentView>} */
export const viewDocument = (id) => call("GET", `${at(id)}/view`);
export const deleteDocument = (id) => call("DELETE", at(id));
/** @param {Record<string, string>} wanted @returns {Promise<{items: Document[], next_cursor: string|null}>} */
export const listDocuments = (wanted) => call("GET", `/api/v1/documents?${new URLSearchParams(wanted)}`);
