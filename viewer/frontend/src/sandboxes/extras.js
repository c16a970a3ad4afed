// What the Sandboxes page needs after a click, in one file.

export { BulkDialog } from "./bulk.js";
export { FilterPanel } from "./filter-panel.js";
export { KeysDialog } from "./keys.js";
export { NewDesktopDialog } from "./new-desktop.js";
// Not for its own sake: what two of three files share is one more request before anything is seen, what all three share
// is the same one.
export * from "../viewer/extras.js";
