// The "New desktop" dialog: image, resolution, lifetime.

import { createSession, goToSignIn } from "./api.js";
import { element } from "./dom.js";
import { inWords } from "./session.js";

const LIFETIMES_S = [900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

/** Fires `created` (detail: the session). */
export class NewDesktopDialog extends EventTarget {
  #box;
  #form;
  #live;

  /** @param {HTMLDialogElement} box @param {import("./live.js").Live} live */
  constructor(box, live) {
    super();
    this.#box = box;
    this.#live = live;
    this.#form = box.querySelector("form");
    this.#offerLifetimes(Number(box.dataset.defaultTtl), Number(box.dataset.maxTtl));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
    box.querySelector("[data-closes]").addEventListener("click", () => box.close());
  }

  open() {
    this.#showErrors("", {});
    this.#box.showModal();
  }

  #offerLifetimes(usual, most) {
    const offered = [...new Set([...LIFETIMES_S.filter((seconds) => seconds <= most), usual])].sort((a, b) => a - b);
    const select = this.#form.elements.namedItem("ttl_seconds");
    select.replaceChildren(...offered.map((seconds) => element("option", { value: seconds, selected: seconds === usual }, lifetime(seconds))));
  }

  async #create() {
    const chosen = new FormData(this.#form);
    this.#setPending(true);
    this.#showErrors("", {});
    try {
      const session = await createSession({
        image: chosen.get("image"),
        resolution: chosen.get("resolution"),
        ttl_seconds: Number(chosen.get("ttl_seconds")),
        wait: false,
      });
      this.#live.accept(session);
      this.#box.close();
      this.dispatchEvent(new CustomEvent("created", { detail: session }));
    } catch (problem) {
      if (problem.status === 401) return goToSignIn();
      this.#showErrors(problem.message, problem.fields);
    } finally {
      this.#setPending(false);
    }
  }

  #showErrors(message, fields) {
    const error = this.#box.querySelector(".form-error");
    const named = Object.entries(fields).map(([field, text]) => `${inWords(field.replace("_seconds", ""))}: ${text}.`);
    error.textContent = named.length ? named.join(" ") : message;
    error.hidden = !error.textContent;
    for (const select of this.#form.querySelectorAll("select")) select.toggleAttribute("aria-invalid", select.name in fields);
  }

  #setPending(pending) {
    const button = this.#form.querySelector("button[type=submit]");
    button.disabled = pending;
    button.replaceChildren(...(pending ? [element("span", { class: "spinner small" }), "Creating…"] : ["Create desktop"]));
  }
}

function lifetime(seconds) {
  if (seconds % 3600 === 0) return seconds === 3600 ? "1 hour" : `${seconds / 3600} hours`;
  if (seconds % 60 === 0) return seconds === 60 ? "1 minute" : `${seconds / 60} minutes`;
  return `${seconds} seconds`;
}
