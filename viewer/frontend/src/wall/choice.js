// What somebody has chosen to see on the wall, as it stands in the address. Pure: no page, no network.

/** How many large ones there may be. */
export const LAYOUTS = [1, 2, 4];
export const SIZES = ["s", "m", "l"];
export const GROUPS = ["none", "host", "task", "agent"];
const FILTERS = ["host", "task", "agent"];

/**
 * @typedef {object} Choice
 * @property {string[]} live ids of the large ones, in their order
 * @property {1|2|4} layout
 * @property {"s"|"m"|"l"} size of the tiles
 * @property {"none"|"host"|"task"|"agent"} group
 * @property {string} host "" for all
 * @property {string} task
 * @property {string} agent
 * @property {boolean} tv nothing but desktops, for a screen that nobody sits at
 */

const among = (value, known, fallback) => (known.includes(value) ? value : fallback);
const room = (count) => LAYOUTS.find((layout) => layout >= count) ?? LAYOUTS.at(-1);

/** @param {string} search of the address @param {{size?: string}} usual what stands for an absent one @returns {Choice} */
export function choiceIn(search, usual = {}) {
  const given = new URLSearchParams(search);
  const live = [...new Set((given.get("live") ?? "").split(",").filter((id) => /^[0-9a-f-]{1,64}$/.test(id)))].slice(0, LAYOUTS.at(-1));
  return {
    live,
    layout: among(Number(given.get("layout")), LAYOUTS.filter((layout) => layout >= live.length), room(live.length)),
    size: among(given.get("size"), SIZES, among(usual.size, SIZES, "m")),
    group: among(given.get("group"), GROUPS, "none"),
    ...Object.fromEntries(FILTERS.map((name) => [name, given.get(name) ?? ""])),
    tv: given.has("tv"),
  };
}

/** The address of it: only what is not usual. @param {Choice} choice */
export function addressOf(choice, usual = {}) {
  const said = [
    choice.live.length > 0 && `live=${choice.live.join(",")}`,
    choice.layout !== room(choice.live.length) && `layout=${choice.layout}`,
    choice.size !== (usual.size ?? "m") && `size=${choice.size}`,
    choice.group !== "none" && `group=${choice.group}`,
    ...FILTERS.map((name) => choice[name] && `${name}=${encodeURIComponent(choice[name])}`),
    choice.tv && "tv",
  ].filter(Boolean);
  return said.length ? `/wall?${said.join("&")}` : "/wall";
}

/** The list of the same desktops. @param {Choice} choice */
export function listOf({ host, task, agent }) {
  const said = Object.entries({ host, task_id: task, agent_id: agent }).filter(([, value]) => value);
  return said.length ? `/sandboxes?${new URLSearchParams(said)}` : "/sandboxes";
}

/** Large: in the next free place, else in that of the one who was put there first. @param {Choice} choice @param {string[]} byAge the large ones, the longest there first */
export function enlarge(choice, id, byAge = choice.live) {
  if (choice.live.includes(id)) return choice;
  if (choice.live.length < choice.layout) return { ...choice, live: [...choice.live, id] };
  const oldest = byAge.find((one) => choice.live.includes(one)) ?? choice.live[0];
  return { ...choice, live: choice.live.map((one) => (one === oldest ? id : one)) };
}

/** In that place, from 0; the layout grows with it, and two change places. */
export function putAt(choice, id, place) {
  const live = [...choice.live];
  const from = live.indexOf(id);
  const at = Math.min(place, from < 0 ? live.length : live.length - 1, LAYOUTS.at(-1) - 1);
  if (from >= 0) [live[from], live[at]] = [live[at], live[from]];
  else live[at] = id;
  return { ...choice, live, layout: Math.max(choice.layout, room(live.length)) };
}

export const remove = (choice, id) => ({ ...choice, live: choice.live.filter((one) => one !== id) });

export const withLayout = (choice, layout) => ({ ...choice, layout, live: choice.live.slice(0, layout) });
