// The list's rows. Of thousands, only those near the window are elements; the list is as high as if all were.

import { RANK, attentionOf } from "../attention.js";
import { badge, element, setTag, setText } from "../dom.js";
import { seenness } from "../seen.js";
import { ago, backendOf, exactly, isOver, nameOf, nextEnd } from "../session.js";

/** Above and below the window, in windows. */
const BEYOND = 0.5;
const LEAST_LINES = 2;

/** Fires `open` (detail: id) and `choose` (detail: {id, isChosen, toHere}). */
export class RowList extends EventTarget {
  #list;
  #scroller;
  #search;
  /** @type {import("../session.js").Session[]} */
  #sessions = [];
  /** Where each row begins, and at last where the list ends, in pixels. */
  #tops = [0];
  /** @type {Map<string, ReturnType<RowList["make"]>>} */
  #rows = new Map();
  #lineHeight = 0;
  #padding = 0;
  #currentId = null;
  #chosen = new Set();
  #mayChoose;
  #now = 0;

  /** @param {HTMLElement} list @param {HTMLElement} scroller @param {{mayChoose: boolean, search: () => string}} options search: what links keep of the address */
  constructor(list, scroller, { mayChoose, search }) {
    super();
    this.#list = list;
    this.#scroller = scroller;
    this.#mayChoose = mayChoose;
    this.#search = search;
    scroller.addEventListener("scroll", () => this.#place(), { passive: true });
    // A taller window has room for more of them.
    new ResizeObserver(() => (this.#measure() ? this.#layOut() : this.#place())).observe(scroller);
  }

  /** @param {import("../session.js").Session[]} sessions in order @param {number} now */
  show(sessions, now) {
    this.#sessions = sessions;
    this.#now = now;
    if (!this.#lineHeight) this.#measure();
    this.#layOut();
  }

  /** Times go on. @param {number} now */
  tick(now) {
    this.#now = now;
    let isSame = true;
    for (const row of this.#rows.values()) isSame = row.tick(now) && isSame;
    if (!isSame) this.#layOut();
  }

  /** @param {string|null} id of the one that is shown beside the list */
  set current(id) {
    this.#currentId = id;
    for (const row of this.#rows.values()) row.mark(id);
  }

  /** @param {Set<string>} ids */
  set chosen(ids) {
    this.#chosen = ids;
    for (const row of this.#rows.values()) row.choose(ids);
  }

  /** The id that a key of the list is about: of the row with the focus, else of the one shown. */
  get focusedId() {
    return document.activeElement?.closest?.("[data-session]")?.dataset.session ?? null;
  }

  /** Give the focus to the row `step` rows from the one that has it, or from the current one. */
  moveFocus(step) {
    const from = this.#sessions.findIndex((session) => session.id === (this.focusedId ?? this.#currentId));
    const to = from < 0 ? 0 : Math.min(Math.max(from + step, 0), this.#sessions.length - 1);
    this.focus(this.#sessions[to]?.id);
  }

  focus(id) {
    const at = this.#sessions.findIndex((session) => session.id === id);
    if (at < 0) return;
    this.reveal(id);
    this.#place();
    this.#rows.get(id)?.link.focus({ preventScroll: true });
  }

  /** Scroll as little as shows the row. */
  reveal(id) {
    const at = this.#sessions.findIndex((session) => session.id === id);
    if (at < 0) return;
    const above = this.#list.offsetTop;
    const { scrollTop, clientHeight } = this.#scroller;
    const [begin, end] = [above + this.#tops[at], above + this.#tops[at + 1]];
    if (begin < scrollTop) this.#scroller.scrollTop = begin - 4;
    else if (end > scrollTop + clientHeight) this.#scroller.scrollTop = end - clientHeight + 4;
  }

  /** From one row to another, both with them. */
  between(one, other) {
    const places = [one, other].map((id) => this.#sessions.findIndex((session) => session.id === id));
    if (places.includes(-1)) return [other];
    return this.#sessions.slice(Math.min(...places), Math.max(...places) + 1).map((session) => session.id);
  }

  /** What one line and what is around lines takes: they follow the font and the density. True if it is not as it was. */
  #measure() {
    const probe = element("li", { class: "row-probe", "aria-hidden": "true" }, element("span", { class: "row" }, element("span", { class: "row-line" }, "x")));
    this.#list.append(probe);
    const one = probe.offsetHeight;
    probe.firstChild.append(element("span", { class: "row-line" }, "x"));
    const two = probe.offsetHeight;
    probe.remove();
    const isNew = one !== this.#padding + this.#lineHeight || two - one !== this.#lineHeight;
    this.#lineHeight = two - one;
    this.#padding = one - this.#lineHeight;
    return isNew;
  }

  #layOut() {
    let top = 0;
    this.#tops = [0];
    for (const session of this.#sessions) this.#tops.push((top += this.#padding + this.#lineHeight * linesOf(session, this.#now)));
    this.#list.style.blockSize = `${top}px`;
    this.#place({ update: true });
  }

  #place({ update = false } = {}) {
    const { scrollTop, clientHeight } = this.#scroller;
    const from = scrollTop - this.#list.offsetTop - clientHeight * BEYOND;
    const to = from + clientHeight * (1 + 2 * BEYOND);
    const first = Math.max(lastBefore(this.#tops, from), 0);
    const focused = this.focusedId;
    const wanted = new Map();
    for (let at = first; at < this.#sessions.length && this.#tops[at] < to; at += 1) wanted.set(this.#sessions[at].id, at);
    // What has the focus stays, wherever it is: without its element nobody would know where he is.
    if (focused && !wanted.has(focused)) {
      const at = this.#sessions.findIndex((session) => session.id === focused);
      if (at >= 0) wanted.set(focused, at);
    }
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.item.remove();
      this.#rows.delete(id);
    }
    const inOrder = [...wanted].sort((a, b) => a[1] - b[1]);
    inOrder.forEach(([id, at], index) => {
      let row = this.#rows.get(id);
      const isNew = !row;
      if (isNew) this.#rows.set(id, (row = this.make(id)));
      if (isNew || update) row.update(this.#sessions[at], this.#now, at, this.#sessions);
      row.item.style.insetBlockStart = `${this.#tops[at]}px`;
      // Moving a node that is where it should be would take the focus from it.
      if (this.#list.children[index] !== row.item) this.#list.insertBefore(row.item, this.#list.children[index] ?? null);
    });
  }

  /** @param {string} sessionId */
  make(sessionId) {
    const link = element("a", { class: "row" });
    const id = element("span", { class: "row-id", dir: "auto" });
    const name = element("span", { class: "row-name" }, id);
    const pill = element("span", { class: "row-status" });
    const image = element("span", { class: "row-image", dir: "auto" });
    const work = element("span", { class: "row-work", dir: "auto" });
    const age = element("time", { class: "row-age" });
    const end = element("span", { class: "row-end" });
    const why = element("span", { class: "row-why", dir: "auto" });
    link.append(
      element("span", { class: "row-line" }, name, pill),
      element("span", { class: "row-line" }, image, age),
      element("span", { class: "row-line", "data-line": "work" }, work, end),
      element("span", { class: "row-line", "data-line": "why" }, why),
    );
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      this.dispatchEvent(new CustomEvent("open", { detail: sessionId }));
    });
    const box = this.#mayChoose ? element("input", { type: "checkbox", class: "row-choice", autocomplete: "off" }) : null;
    box?.addEventListener("click", (event) => this.dispatchEvent(new CustomEvent("choose", { detail: { id: sessionId, isChosen: box.checked, toHere: event.shiftKey } })));
    const item = element("li", { "data-session": sessionId }, box, link);
    let session = null;
    let lines = 0;
    const row = {
      item,
      link,
      mark: (current) => (current === sessionId ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")),
      choose: (ids) => {
        if (!box) return;
        box.checked = ids.has(sessionId);
        item.dataset.chosen = String(box.checked);
      },
      tick: (now) => {
        row.write(now);
        return linesOf(session, now) === lines;
      },
      write: (now) => {
        setText(age, ago(now - Date.parse(session.created_at)));
        setText(end, nextEnd(session, now));
        const said = attentionOf(session, now, seenness(session));
        setText(why, oneLine(said.why));
        for (const line of link.querySelectorAll("[data-line]")) line.hidden = !(line.dataset.line === "why" ? why.textContent : work.textContent || end.textContent);
        return said;
      },
      update: (latest, now, at, all) => {
        session = latest;
        lines = linesOf(latest, now);
        link.href = `/sandboxes/${latest.id}${this.#search()}`;
        setText(id, nameOf(latest));
        setTag(name, backendOf(latest));
        setText(image, [latest.kind === "desktop" ? null : latest.image, latest.host].filter(Boolean).join(" · "));
        setText(work, workOf(latest));
        age.dateTime = latest.created_at;
        age.title = exactly(latest.created_at);
        end.title = latest.expires_at ? `Ends ${exactly(latest.expires_at)}` : "";
        const said = row.write(now);
        if (pill.textContent !== said.label || pill.dataset.tone !== said.tone) pill.replaceChildren(badge(said));
        pill.dataset.tone = said.tone;
        why.dataset.tone = said.tone;
        link.title = said.why;
        const isHistory = said.rank === RANK.ended;
        item.dataset.over = String(isHistory);
        item.dataset.begins = String(isHistory && at > 0 && !isOver(all[at - 1]));
        item.setAttribute("aria-setsize", all.length);
        item.setAttribute("aria-posinset", at + 1);
        if (box) {
          box.setAttribute("aria-label", `Choose ${nameOf(latest)}`);
          box.disabled = !mayEnd(latest);
        }
        row.mark(this.#currentId);
        row.choose(this.#chosen);
      },
    };
    return row;
  }
}

/** What has ended has, and what the inventory declares stays. @param {import("../session.js").Session} session */
export const mayEnd = (session) => !isOver(session) && session.kind === "sandbox";

const workOf = (session) => [session.task_id && `Task ${session.task_id}`, session.agent_id && `Agent ${session.agent_id}`].filter(Boolean).join(" · ");
const oneLine = (text) => text.replace(/\s+/g, " ");

function linesOf(session, now) {
  return LEAST_LINES + Number(Boolean(workOf(session) || nextEnd(session, now))) + Number(Boolean(attentionOf(session, now, seenness(session)).why));
}

/** The last index whose top is at `y` or above. */
function lastBefore(tops, y) {
  let [low, high] = [0, tops.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}
