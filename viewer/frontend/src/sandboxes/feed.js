// Which sessions the list has: pages of the API in the order of the filter, and what events tell of since.

import { call, everyPage } from "../api.js";
import { RANK, attentionOf } from "../attention.js";
import { MOST_LIVE } from "../live.js";
import { isOver } from "../session.js";
import { seenness } from "../seen.js";
import { everything, isWithin, liveOf, matches, orderOf, queryOf } from "./filter.js";

const PAGE = 50;
const LARGEST_PAGE = 200;
/** What failed lately is read, too, wherever it stands among all that has ended. */
const MOST_FAILED = 50;
/** As many as were shown are read again after a break; the rest comes page by page, as it did before. */
const MOST_AGAIN = 1000;
// A page may be short although there is more: the API looks at some thousand sessions at a time.
const ENOUGH = 20;
const LOOKS = 6;

export class Feed {
  /** @type {import("../live.js").Live|null} */
  live = null;
  /** True once what the filter asks for has come. */
  isRead = false;
  /** True where another page was asked for and brought nothing, but is not the last. */
  isSparse = false;
  /** @type {import("./filter.js").Filter} */
  #filter = everything();
  /** @type {string|null} */
  #cursor = null;
  /** @type {import("../session.js").Session|null} the last one of the pages so far, while there are more */
  #edge = null;
  #count = 0;
  #turn = 0;

  get filter() {
    return this.#filter;
  }

  set filter(filter) {
    this.#filter = filter;
    this.isRead = this.isSparse = false;
    this.#cursor = this.#edge = null;
    this.#count = 0;
    this.#turn += 1;
  }

  get hasMore() {
    return this.#cursor !== null;
  }

  /** For `Live`: what there is now, as far as it is shown. */
  async read() {
    const turn = ++this.#turn;
    const filter = this.#filter;
    const isByAttention = filter.sort === "attention";
    const lives = isByAttention ? liveOf(filter) : [];
    const mayHaveFailed = isByAttention && (!filter.status.length || filter.status.includes("error"));
    const [page, alive, failed] = await Promise.all([
      this.#pages(filter, null, Math.min(this.#count, MOST_AGAIN)),
      lives.length ? this.#alive(filter, lives) : [],
      mayHaveFailed ? this.#failed(filter) : [],
    ]);
    const items = [...failed, ...alive, ...page.items];
    // The filter has changed meanwhile, and its own answer is on the way.
    if (turn !== this.#turn) return { items, isMissed: () => false };
    this.#took(page, page.items.length);
    this.isRead = true;
    const isMissed = (session) => matches(session, filter) && (lives.includes(session.status) || this.#isWithin(session));
    return { items, isMissed };
  }

  /** The next page. Throws a Problem. */
  async more() {
    const turn = this.#turn;
    const page = await this.#pages(this.#filter, this.#cursor, PAGE);
    if (turn !== this.#turn) return;
    this.isSparse = page.items.length === 0 && page.next_cursor !== null;
    this.#took(page, this.#count + page.items.length);
    this.live.acceptAll(page.items);
  }

  /** What the list shows, in its order. @param {number} now */
  shown(now) {
    if (!this.isRead) return [];
    const listed = [...this.live.sessions.values()].filter((session) => matches(session, this.#filter) && this.#isListed(session, now));
    return listed.sort(orderOf(this.#filter, now, seenness));
  }

  #isListed(session, now) {
    if (this.#isWithin(session)) return true;
    return this.#filter.sort === "attention" && (!isOver(session) || attentionOf(session, now, seenness(session)).rank === RANK.error);
  }

  #isWithin(session) {
    return this.#cursor === null || (this.#edge !== null && isWithin(session, this.#edge, this.#filter));
  }

  #took(page, count) {
    this.#cursor = page.next_cursor;
    this.#edge = page.items.at(-1) ?? this.#edge;
    this.#count = count;
  }

  /** One page of at least `least`, as far as some looks find so many. */
  async #pages(filter, from, least) {
    const items = [];
    let cursor = from;
    for (let look = 0; look < LOOKS; look += 1) {
      const limit = Math.min(Math.max(least - items.length, PAGE), LARGEST_PAGE);
      const page = await call("GET", `/api/v1/sessions?${queryOf(filter, { limit, cursor })}`);
      items.push(...page.items);
      cursor = page.next_cursor;
      if (cursor === null || items.length >= Math.max(least, ENOUGH)) break;
    }
    return { items, next_cursor: cursor };
  }

  async #failed(filter) {
    return (await call("GET", `/api/v1/sessions?${queryOf(filter, { status: ["error"], limit: MOST_FAILED })}`)).items;
  }

  /** All that live are read, for the order by attention. */
  async #alive(filter, status) {
    return (await everyPage(`/api/v1/sessions?${queryOf(filter, { status, limit: LARGEST_PAGE })}`, MOST_LIVE)).items;
  }
}
