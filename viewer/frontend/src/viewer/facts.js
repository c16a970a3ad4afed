// The row below the screen: what the session is and when it ends.

import { serverNow } from "../api.js";
import { element, setText } from "../dom.js";
import { countdown, endsOf, exactly, screenOf } from "../session.js";

const SOON_MS = 60_000;

export class Facts {
  node = element("dl", { class: "viewer-facts" });
  #shown = "";

  /** @param {import("../session.js").Session|null} session */
  show(session) {
    this.node.hidden = !session;
    if (!session) return;
    const rows = [["Screen", screenOf(session)], ["Host", session.host], ["Task", session.task_id], ["Agent", session.agent_id], ["Session", session.id]].filter(([, value]) => value);
    const ends = endsOf(session);
    const key = JSON.stringify([rows, ends]);
    if (key === this.#shown) return;
    this.#shown = key;
    this.node.replaceChildren(
      ...rows.map(([name, value]) => element("div", { "data-fact": name.toLowerCase() }, element("dt", {}, name), element("dd", { title: value, dir: "auto" }, value))),
      ...ends.map(({ name, exact }, at) => element("div", { "data-end": name, class: at === 0 && "first-end" }, element("dt", {}, name), element("dd", {}, element("time", { datetime: exact, title: exactly(exact) })))));
  }

  tick() {
    for (const time of this.node.querySelectorAll("[data-end] time")) {
      const left = Date.parse(time.dateTime) - serverNow();
      setText(time, countdown(left));
      time.closest("[data-end]").dataset.soon = String(left < SOON_MS);
    }
  }
}
