// The "New desktop" dialog: image, resolution, lifetime, task, host.

import { call, createSession, goToSignIn } from "../api.js";
import { element, setText } from "../dom.js";
import { inWords } from "../session.js";

const LIFETIMES_S = [900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];
const SUGGESTED = 100;

/** Fires `created` (detail: the session). */
export class NewDesktopDialog extends EventTarget {
  #box;
  #form;
  #live;

  /** @param {HTMLDialogElement} box @param {import("../live.js").Live} live */
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

  /** @param {{task: string}} filter a list of one task is where its next desktop is made */
  open({ task }) {
    this.#showErrors("", {});
    if (task) this.#field("task_id").value = task;
    this.#box.showModal();
    this.#offerWhatThereIs();
  }

  #field(name) {
    return this.#form.elements.namedItem(name);
  }

  #offerLifetimes(usual, most) {
    const offered = [...new Set([...LIFETIMES_S.filter((seconds) => seconds <= most), usual])].sort((a, b) => a - b);
    this.#field("ttl_seconds").replaceChildren(...offered.map((seconds) => element("option", { value: seconds, selected: seconds === usual }, lifetime(seconds))));
  }

  /** What cannot be asked now is not offered; the desktop can be made all the same. */
  async #offerWhatThereIs() {
    const [tasks, hosts] = await Promise.allSettled([call("GET", `/api/v1/tasks?limit=${SUGGESTED}`), call("GET", "/api/v1/hosts")]);
    this.#box.querySelector("datalist").replaceChildren(...(tasks.value?.items ?? []).map((task) => element("option", { value: task.id }, task.title ?? "")));
    const select = this.#field("host");
    const chosen = select.value;
    const sandboxHosts = (hosts.value?.items ?? []).filter((host) => host.max_desktops > 0);
    select.replaceChildren(select.options[0], ...sandboxHosts.map(hostOption));
    select.value = [...select.options].some((option) => option.value === chosen && !option.disabled) ? chosen : "";
  }

  async #create() {
    const chosen = new FormData(this.#form);
    const wanted = { image: chosen.get("image"), resolution: chosen.get("resolution"), ttl_seconds: Number(chosen.get("ttl_seconds")), wait: false };
    for (const name of ["task_id", "host"]) if (chosen.get(name).trim()) wanted[name] = chosen.get(name).trim();
    this.#setPending(true);
    this.#showErrors("", {});
    try {
      const session = await createSession(wanted);
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

  /** Each at its field, and the first of those gets the focus; what belongs to none of them stands below. */
  #showErrors(message, fields) {
    let first = null;
    for (const error of this.#form.querySelectorAll(".field-error")) {
      const input = this.#field(error.dataset.field);
      setText(error, fields[error.dataset.field] ? `${inWords(fields[error.dataset.field])}.` : "");
      error.hidden = !error.textContent;
      input.toggleAttribute("aria-invalid", !error.hidden);
      if (!error.hidden) first ??= input;
    }
    const others = Object.entries(fields).filter(([field]) => !this.#form.querySelector(`[data-field="${CSS.escape(field)}"]`)).map(([field, text]) => `${inWords(field)}: ${text}.`);
    const rest = this.#form.querySelector(".form-error");
    setText(rest, others.length ? others.join(" ") : first ? "" : message);
    rest.hidden = !rest.textContent;
    first?.focus();
  }

  #setPending(pending) {
    const button = this.#form.querySelector("button[type=submit]");
    button.disabled = pending;
    button.replaceChildren(...(pending ? [element("span", { class: "spinner small" }), "Creating…"] : ["Create desktop"]));
  }
}

function hostOption(host) {
  const left = host.max_desktops - host.used_desktops;
  const why = host.status === "unreachable" ? "unreachable" : host.draining ? "draining" : left <= 0 ? "full" : "";
  return element("option", { value: host.name, disabled: Boolean(why) }, `${host.name}: ${why || `room for ${left}`}`);
}

function lifetime(seconds) {
  if (seconds % 3600 === 0) return seconds === 3600 ? "1 hour" : `${seconds / 3600} hours`;
  if (seconds % 60 === 0) return seconds === 60 ? "1 minute" : `${seconds / 60} minutes`;
  return `${seconds} seconds`;
}
