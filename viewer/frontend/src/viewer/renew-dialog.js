// "Let it live longer": a new end for a session, counted from now.

import { serverNow } from "../api.js";
import { element } from "../dom.js";
import { countdown, exactly } from "../session.js";

const LIVES = [["as long as it was made for", ""], ["1 hour", 3600], ["4 hours", 14_400], ["8 hours", 28_800], ["1 day", 86_400]];

export class RenewDialog {
  #session = null;
  #live = null;
  #connection;

  /** @param {HTMLElement} parent @param {import("./connection.js").Connection} connection @param {(text: string) => void} say what has come of it */
  constructor(parent, connection, say) {
    this.#connection = connection;
    this.say = say;
    this.ends = element("p", {});
    this.life = element("select", {}, ...LIVES.map(([name, seconds]) => element("option", { value: seconds }, name)));
    this.error = element("p", { class: "form-error", role: "alert", hidden: true });
    this.cancel = element("button", { type: "button", class: "button" }, "Cancel");
    this.confirm = element("button", { type: "submit", class: "button primary" }, "Renew");
    const form = element("form", {},
      element("h2", {}, "Renew this desktop"), this.ends, element("label", { class: "field" }, element("span", {}, "From now it lives for"), this.life), this.error,
      element("div", { class: "dialog-actions" }, this.cancel, this.confirm));
    this.box = element("dialog", { class: "dialog", "aria-label": "Renew this desktop" }, form);
    this.cancel.addEventListener("click", () => this.box.close());
    form.addEventListener("submit", (event) => this.#renew(event));
    parent.append(this.box);
  }

  /** @param {import("../session.js").Session} session @param {import("../live.js").Live} live */
  open(session, live) {
    this.#session = session;
    this.#live = live;
    const at = session.expires_at;
    this.ends.textContent = at ? `As it is, it ends ${countdown(Date.parse(at) - serverNow())}.` : "";
    this.ends.title = at ? exactly(at) : "";
    this.error.hidden = true;
    this.life.value = "";
    this.box.showModal();
  }

  async #renew(event) {
    event.preventDefault();
    this.confirm.disabled = true;
    this.error.hidden = true;
    const wanted = this.life.value ? { ttl_seconds: Number(this.life.value) } : {};
    try {
      const answer = await this.#connection.call("POST", `/api/v1/sessions/${encodeURIComponent(this.#session.id)}/renew`, wanted);
      this.#live.accept(answer);
      this.say(`Renewed. It ends ${countdown(Date.parse(answer.expires_at) - serverNow())}, at ${new Date(answer.expires_at).toLocaleTimeString(undefined, { timeStyle: "short" })}.`);
      this.box.close();
    } catch (problem) {
      if (problem.status === 401) return this.#connection.signedOut?.();
      this.error.textContent = problem.fields.ttl_seconds ?? problem.message;
      this.error.hidden = false;
    } finally {
      this.confirm.disabled = false;
    }
  }
}
