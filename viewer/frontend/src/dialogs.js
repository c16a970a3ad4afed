// Dialogs that a page makes when they are needed: a question, a form, something shown once.

import { goToSignIn } from "./api.js";
import { element } from "./dom.js";

let counted = 0;

/**
 * An open dialog that leaves the page when it is closed. @param {string} title
 * @param {Node[]} parts @param {{wide?: boolean}} [how]
 */
export function openDialog(title, parts, { wide = false } = {}) {
  const id = `dialog-${++counted}`;
  const box = element("dialog", { class: wide ? "dialog wide" : "dialog", "aria-labelledby": id }, element("h2", { id }, title), ...parts);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

export function actions(...buttons) {
  return element("div", { class: "dialog-actions" }, ...buttons);
}

export function button(label, onClick, attributes = {}) {
  const made = element("button", { type: "button", class: "button", ...attributes }, label);
  if (onClick) made.addEventListener("click", onClick);
  return made;
}

/**
 * Ask before something that cannot be taken back; it stays open, with the reason, where that fails.
 * @param {{title: string, text: string, action: string, keep?: string, danger?: boolean, act: () => Promise<void>}} question
 * @returns {Promise<boolean>} whether it was done
 */
export function confirmed({ title, text, action, keep = "Cancel", danger = true, act }) {
  return new Promise((resolve) => {
    const error = errorLine();
    const yes = button(action, run, { class: danger ? "button danger" : "button primary" });
    const no = button(keep, () => box.close());
    // What does no harm has the focus.
    no.autofocus = true;
    const box = openDialog(title, [element("p", { dir: "auto" }, text), error, actions(no, yes)]);
    let done = false;
    box.addEventListener("close", () => resolve(done));
    async function run() {
      await pending(yes, error, async () => {
        await act();
        done = true;
        box.close();
      });
    }
  });
}

/** An empty line for what went wrong. */
export const errorLine = () => element("p", { class: "form-error", role: "alert", hidden: true });

/** Do it with the button held, and say in `error` why it failed. @param {(problem: import("./api.js").Problem) => string} [words] */
export async function pending(held, error, act, words = (problem) => problem.message) {
  held.disabled = true;
  error.hidden = true;
  try {
    await act();
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    if (problem.status === 401) return goToSignIn();
    error.textContent = words(problem);
    error.hidden = false;
  } finally {
    held.disabled = false;
  }
}

/**
 * A dialog with a form. `send` gets the form's data; what it throws is shown, beside the fields that it names.
 * @param {{title: string, parts: Node[], action: string, send: (data: FormData) => Promise<void>, wide?: boolean}} wanted
 */
export function formDialog({ title, parts, action, send, wide = false }) {
  const error = errorLine();
  const submit = element("button", { type: "submit", class: "button primary" }, action);
  const form = element("form", { class: "form", novalidate: true }, ...parts, error, actions(button("Cancel", () => box.close()), submit));
  const box = openDialog(title, [form], { wide });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    await pending(submit, error, async () => {
      await send(new FormData(form));
      box.close();
    }, (problem) => fieldWords(form, problem));
  });
  return box;
}

/** The problem in words, with the first of the fields that it names in focus. */
function fieldWords(form, problem) {
  const named = Object.entries(problem.fields).map(([name, words]) => ({ field: form.elements.namedItem(name.split(".")[0]), name, words }));
  const first = named.find(({ field }) => field instanceof HTMLElement);
  first?.field.setAttribute("aria-invalid", "true");
  first?.field.focus();
  return named.map(({ field, name, words }) => `${field?.labels?.[0]?.dataset.name ?? name}: ${words}`).join(" · ") || problem.message;
}

/** <label class="field"> with its words for errors. @param {string} label @param {HTMLElement} input @param {string} [hint] */
export function field(label, input, hint) {
  return element("label", { class: "field", "data-name": label }, element("span", {}, label), input, hint && element("span", { class: "hint" }, hint));
}

/** @param {string} name @param {[string, string][]} choices value and label @param {string} chosen */
export function select(name, choices, chosen) {
  return element("select", { name }, ...choices.map(([value, label]) => element("option", { value, selected: value === chosen }, label)));
}
