// How the pages look to this browser. The cookie lets the server paint the next page so from the start.

const COOKIE = "__Host-deskfleet-look";
const YEAR_SECONDS = 31_536_000;
const THEMES = ["system", "light", "dark"];
const DENSITIES = ["comfortable", "compact"];

const root = document.documentElement;
// Other open pages follow at once.
const channel = new BroadcastChannel("deskfleet-look");
channel.addEventListener("message", ({ data }) => show(data));

/** @typedef {{theme: "system"|"light"|"dark", density: "comfortable"|"compact"}} Look */

/** @returns {Look} as this page looks */
export const look = () => ({ theme: root.dataset.theme ?? "system", density: root.dataset.density ?? "comfortable" });

/** @param {Partial<Look>} wanted */
export function setLook(wanted) {
  const next = { ...look(), ...wanted };
  if (!THEMES.includes(next.theme) || !DENSITIES.includes(next.density)) return;
  document.cookie = `${COOKIE}=${next.theme}.${next.density}; Path=/; Max-Age=${YEAR_SECONDS}; SameSite=Lax; Secure`;
  channel.postMessage(next);
  show(next);
}

/** @param {Look} wanted */
function show({ theme, density }) {
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
  root.dataset.density = density;
  document.querySelector("meta[name=color-scheme]").content = theme === "system" ? "light dark" : theme;
  for (const input of document.querySelectorAll("[data-look] input")) input.checked = Object.values({ theme, density }).includes(input.value);
}

/** As the cookie says: of another page, when this one was painted before. @returns {Partial<Look>} */
function chosen() {
  const [, theme, density] = new RegExp(`(?:^|; )${COOKIE}=(\\w+)\\.(\\w+)`).exec(document.cookie) ?? [];
  return THEMES.includes(theme) && DENSITIES.includes(density) ? { theme, density } : {};
}

/** The choices on this page, in the header's menu and elsewhere: <fieldset data-look="theme"> with radios. */
export function offerLooks() {
  addEventListener("change", ({ target }) => {
    const which = target.closest?.("[data-look]")?.dataset.look;
    if (which) setLook({ [which]: target.value });
  });
  const follow = () => show({ ...look(), ...chosen() });
  addEventListener("pageshow", (event) => event.persisted && follow());
  follow();
}
