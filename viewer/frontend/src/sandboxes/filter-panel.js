// The panel of all that a list can be narrowed by. Loaded when it is opened first.

import { call } from "../api.js";
import { element } from "../dom.js";
import { LABELS } from "../session.js";

const SUGGESTED = 100;
const TYPED_MS = 400;

export class FilterPanel {
  #apply;
  #statuses;
  #fields = {};
  #suggestions = { task: element("datalist", { id: "known-tasks" }), agent: element("datalist", { id: "known-agents" }) };
  #timer = 0;

  /** @param {HTMLElement} place @param {(change: object) => void} apply */
  constructor(place, apply) {
    this.#apply = apply;
    this.#statuses = Object.entries(LABELS).map(([status, label]) => this.#statusBox(status, label));
    const boxes = element("fieldset", { class: "filter-statuses" }, element("legend", {}, "Status"), ...this.#statuses.map((box) => box.label));
    place.replaceChildren(boxes, this.#select("host", "Host", "Any host"), this.#select("image", "Image", "Any image"), this.#input("task", "Task"), this.#input("agent", "Agent"), ...Object.values(this.#suggestions));
    this.refresh();
  }

  /** @param {import("./filter.js").Filter} filter */
  show(filter) {
    for (const { box } of this.#statuses) box.checked = filter.status.includes(box.value);
    for (const [name, field] of Object.entries(this.#fields)) {
      if (document.activeElement === field && field.localName === "input") continue;
      // What the address says is offered, whether there is such a one or not.
      if (field.localName === "select" && filter[name] && ![...field.options].some((option) => option.value === filter[name])) field.append(element("option", {}, filter[name]));
      field.value = filter[name];
    }
  }

  /** Ask again what there is to choose from. */
  async refresh() {
    const [hosts, images, tasks, agents] = await Promise.allSettled(["hosts", "images", `tasks?limit=${SUGGESTED}`, `agents?limit=${SUGGESTED}`].map((path) => call("GET", `/api/v1/${path}`)));
    this.#offer(this.#fields.host, names(hosts, "name"));
    this.#offer(this.#fields.image, names(images, "name"));
    this.#suggestions.task.replaceChildren(...names(tasks, "id").map((id) => element("option", { value: id })));
    this.#suggestions.agent.replaceChildren(...names(agents, "id").map((id) => element("option", { value: id })));
  }

  #offer(select, found) {
    const chosen = select.value;
    const known = [...new Set([...found, chosen].filter(Boolean))];
    select.replaceChildren(select.options[0], ...known.map((name) => element("option", {}, name)));
    select.value = chosen;
  }

  #statusBox(status, text) {
    const box = element("input", { type: "checkbox", value: status, autocomplete: "off" });
    box.addEventListener("change", () => this.#apply({ status: this.#statuses.filter((one) => one.box.checked).map((one) => one.box.value) }));
    return { box, label: element("label", { class: "check" }, box, text) };
  }

  #select(name, label, any) {
    const select = (this.#fields[name] = element("select", { autocomplete: "off" }, element("option", { value: "" }, any)));
    select.addEventListener("change", () => this.#apply({ [name]: select.value }));
    return element("label", { class: "field" }, label, select);
  }

  #input(name, label) {
    const input = (this.#fields[name] = element("input", { list: this.#suggestions[name].id, maxlength: 200, autocomplete: "off", spellcheck: "false", placeholder: `Any ${label.toLowerCase()}` }));
    const apply = () => {
      clearTimeout(this.#timer);
      this.#apply({ [name]: input.value });
    };
    input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(apply, TYPED_MS);
    });
    input.addEventListener("change", apply);
    return element("label", { class: "field" }, label, input);
  }
}

const names = (answer, field) => (answer.value?.items ?? []).map((one) => one[field]);
