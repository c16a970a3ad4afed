// "Terminate this desktop?", with its pending state and the server's answer when it fails.

import { element } from "../dom.js";
import { nameOf } from "../session.js";

export class TerminateDialog {
  #session = null;
  #live = null;
  #connection;

  /** @param {HTMLElement} parent @param {import("./connection.js").Connection} connection */
  constructor(parent, connection) {
    this.#connection = connection;
    this.error = element("p", { class: "form-error", role: "alert", hidden: true });
    this.cancel = element("button", { type: "button", class: "button", autofocus: true }, "Keep it");
    this.confirm = element("button", { type: "button", class: "button danger" }, "Terminate");
    this.text = element("p", {});
    this.box = element("dialog", { class: "dialog", "aria-label": "Terminate this desktop" },
      element("h2", {}, "Terminate this desktop?"), this.text, this.error,
      element("div", { class: "dialog-actions" }, this.cancel, this.confirm));
    this.cancel.addEventListener("click", () => this.box.close());
    this.confirm.addEventListener("click", () => this.#terminate());
    parent.append(this.box);
  }

  /** @param {import("../session.js").Session} session @param {import("../live.js").Live} live */
  open(session, live) {
    this.#session = session;
    this.#live = live;
    this.text.textContent = `Desktop ${nameOf(session)} stops at once. Its programs end and files inside it are lost.`;
    this.error.hidden = true;
    this.#setPending(false);
    this.box.showModal();
  }

  async #terminate() {
    const session = this.#session;
    this.#setPending(true);
    this.error.hidden = true;
    try {
      const answer = await this.#connection.call("DELETE", `/api/v1/sessions/${encodeURIComponent(session.id)}`);
      if (answer?.id) this.#live.accept(answer);
      else await this.#live.ask(session.id);
      if (this.#session === session) this.box.close();
    } catch (problem) {
      if (problem.status === 401) return this.#connection.signedOut?.();
      if (problem.status === 404) return this.box.close();
      this.error.textContent = problem.message;
      this.error.hidden = false;
    } finally {
      this.#setPending(false);
    }
  }

  #setPending(pending) {
    this.confirm.disabled = pending;
    this.confirm.replaceChildren(...(pending ? [element("span", { class: "spinner small" }), "Terminating…"] : ["Terminate"]));
    this.cancel.textContent = pending ? "Close" : "Keep it";
  }
}
