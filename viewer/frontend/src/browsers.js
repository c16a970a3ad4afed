// What a browser calls itself, in two words.

// The first that matches: browsers claim to be each other.
const BROWSERS = [["Edge", /Edg\//], ["Opera", /OPR\//], ["Firefox", /Firefox\//], ["Chrome", /Chrom(e|ium)\//], ["Safari", /Safari\//]];
const SYSTEMS = [["Android", /Android/], ["iOS", /iPhone|iPad/], ["Windows", /Windows/], ["macOS", /Mac OS/], ["Linux", /Linux|X11/]];

/** "Firefox on Linux"; what is not known by its beginning. @param {string|null} userAgent */
export function browserName(userAgent) {
  const text = userAgent ?? "";
  const browser = BROWSERS.find(([, pattern]) => pattern.test(text))?.[0];
  const system = SYSTEMS.find(([, pattern]) => pattern.test(text))?.[0];
  return [browser, system].filter(Boolean).join(" on ") || text.slice(0, 40) || "A browser";
}
