// What a viewer needs only after a click, in one file that is loaded then (or when the first picture is there).

import "../common.js";

export { ClipboardPanel } from "./clipboard-panel.js";
export { DevTools } from "./devtools-frame.js";
export { FiguresPanel } from "./figures-panel.js";
export { KeysPanel } from "./keys-panel.js";
export { MoreMenu } from "./more-menu.js";
export { RenewDialog } from "./renew-dialog.js";
export { ShareDialog } from "./share-dialog.js";
export { TerminateDialog } from "./terminate-dialog.js";
export { WatchersList } from "./watchers-list.js";
export { saveScreenshot } from "./screenshot.js";
