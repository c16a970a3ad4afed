/** What our elements are called on the page that they are on. */
export const names = { viewer: "sandbox-viewer" };
