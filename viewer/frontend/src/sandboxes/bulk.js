// The same done to several desktops: asked for once, then one after the other, each with its own outcome.

import { Problem, call, goToSignIn, terminateSession } from "../api.js";
import { element, setText } from "../dom.js";
import { nameOf } from "../session.js";

// More at a time would only wait for each other on the hosts.
const AT_ONCE = 4;
const ACTS = {
  terminate: {
    title: (count) => `Terminate ${several(count)}?`,
    text: "What runs in them is lost, and so are files that nobody has fetched.",
    button: "Terminate",
    tone: "danger",
    doing: "Terminating",
    done: (count) => `${several(count)} terminated.`,
    act: (session) => terminateSession(session.id),
  },
  renew: {
    title: (count) => `Renew ${several(count)}?`,
    text: "Each lives on for as long as it was made for, counted from now, at most to the end of its lifetime.",
    button: "Renew",
    tone: "primary",
    doing: "Renewing",
    done: (count) => `${several(count)} renewed.`,
    act: (session) => call("POST", `/api/v1/sessions/${encodeURIComponent(session.id)}/renew`, {}),
  },
};

/** Fires `done` (detail: the ids that it has worked for). */
export class BulkDialog extends EventTarget {
  #box = element("dialog", { class: "dialog", "aria-labelledby": "bulk-title" });
  #title = element("h2", { id: "bulk-title" });
  #text = element("p", {});
  #progress = element("progress", { class: "meter", hidden: true, "aria-label": "Progress" });
  #status = element("p", { role: "status", class: "bulk-status" });
  #failures = element("ul", { class: "bulk-failures", hidden: true });
  #close = element("button", { class: "button", type: "button" }, "Cancel");
  #go = element("button", { class: "button", type: "button" });
  #live;
  #act = ACTS.terminate;
  /** @type {import("../session.js").Session[]} */
  #sessions = [];
  #isBusy = false;
  #isStopped = false;

  /** @param {import("../live.js").Live} live */
  constructor(live) {
    super();
    this.#live = live;
    this.#box.append(this.#title, this.#text, this.#progress, this.#status, this.#failures, element("div", { class: "dialog-actions" }, this.#close, this.#go));
    this.#close.addEventListener("click", () => (this.#isBusy ? (this.#isStopped = true) : this.#box.close()));
    this.#go.addEventListener("click", () => this.#run());
    this.#box.addEventListener("cancel", (event) => this.#isBusy && event.preventDefault());
    document.body.append(this.#box);
  }

  /** @param {"terminate"|"renew"} name @param {import("../session.js").Session[]} sessions */
  open(name, sessions) {
    this.#act = ACTS[name];
    this.#ask(sessions);
    setText(this.#status, "");
    this.#failures.replaceChildren();
    this.#failures.hidden = this.#progress.hidden = true;
    this.#box.showModal();
    this.#close.focus();
  }

  #ask(sessions) {
    this.#sessions = sessions;
    setText(this.#title, this.#act.title(sessions.length));
    setText(this.#text, this.#act.text);
    setText(this.#close, "Cancel");
    setText(this.#go, `${this.#act.button} ${sessions.length}`);
    this.#go.className = `button ${this.#act.tone}`;
    this.#go.hidden = this.#go.disabled = false;
  }

  async #run() {
    const [waiting, done, failed] = [[...this.#sessions], [], []];
    this.#begin();
    const one = async () => {
      while (waiting.length && !this.#isStopped) {
        const session = waiting.shift();
        try {
          const answer = await this.#act.act(session);
          if (answer?.id) this.#live.accept(answer);
          done.push(session);
        } catch (problem) {
          if (problem.status === 401) return goToSignIn();
          failed.push({ session, message: problem instanceof Problem ? problem.message : "It could not be asked for." });
        }
        this.#progressed(done.length + failed.length);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
    this.#isBusy = false;
    this.dispatchEvent(new CustomEvent("done", { detail: done.map((session) => session.id) }));
    this.#ended(done, failed, waiting);
  }

  #begin() {
    this.#isBusy = true;
    this.#isStopped = false;
    this.#progress.max = this.#sessions.length;
    this.#progress.hidden = false;
    this.#failures.hidden = true;
    this.#go.disabled = true;
    setText(this.#close, "Stop");
    this.#progressed(0);
  }

  #progressed(count) {
    this.#progress.value = count;
    setText(this.#status, `${this.#act.doing} ${count} of ${this.#sessions.length}`);
  }

  #ended(done, failed, left) {
    setText(this.#status, [this.#act.done(done.length), failed.length && `${several(failed.length)} failed:`, left.length && `${left.length} not begun.`].filter(Boolean).join(" "));
    this.#failures.replaceChildren(...failed.map(({ session, message }) => element("li", {}, element("strong", { dir: "auto" }, nameOf(session)), " ", element("span", { dir: "auto" }, message))));
    this.#failures.hidden = !failed.length;
    const again = [...failed.map((one) => one.session), ...left];
    if (!again.length) return this.#box.close();
    this.#ask(again);
    setText(this.#close, "Close");
  }
}

const several = (count) => (count === 1 ? "1 desktop" : `${count} desktops`);
