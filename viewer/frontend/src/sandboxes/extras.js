// What the Sandboxes page needs after a click, in one file.

import "../common.js";

export { BulkDialog } from "./bulk.js";
export { FilterPanel } from "./filter-panel.js";
export { KeysDialog } from "./keys.js";
export { NewDesktopDialog } from "./new-desktop.js";
