// Why one desktop shows nothing: each step as soon as it is known, with what mends it.

import { Problem, bodyOf, getSession, goToSignIn, problemFrom } from "../api.js";
import { badge, element, icon, setText } from "../dom.js";
import "../header.js";
import * as icons from "../icons.js";
import { badgeOf, nameOf, shortId } from "../session.js";

/**
 * @typedef {object} Step as in the API
 * @property {string} step
 * @property {"ok"|"warn"|"failed"|"skipped"} state
 * @property {string} what
 * @property {string|null} mend
 * @property {number} took_ms
 */

const NAMES = {
  row: "Session", host: "Host", container: "Container", "vnc-port": "VNC port", relay: "Relay",
  authorisation: "Authorisation", websocket: "WebSocket", "first-frame": "First frame",
};
const STATES = { ok: "OK", warn: "Note", failed: "Failed", skipped: "Not looked at", busy: "Looking" };
const ICONS = { ok: icons.ok, warn: icons.warning, failed: icons.failed, skipped: icons.skipped };

const main = document.querySelector("main");
const id = main.dataset.session;
const list = document.querySelector("#diagnosis-steps");
const verdict = document.querySelector("#diagnosis-verdict");
const again = document.querySelector("#run-again");
const copy = document.querySelector("#copy-report");
const copyNote = document.querySelector("#copy-note");

/** @type {{steps: Step[], summary: string, at: string}|null} what the last run found */
let found = null;

// ---- drawing ----------------------------------------------------------------------------------------------------

function row(name) {
  const mark = element("span", { class: "step-mark", "aria-hidden": "true" }, element("span", { class: "spinner small" }));
  const head = element("p", { class: "step-head" }, element("span", { class: "step-name" }, NAMES[name]), element("span", { class: "step-state" }, STATES.busy));
  return element("li", { class: "step", "data-step": name, "data-state": "busy" }, mark, element("div", {}, head, element("p", { class: "step-what", dir: "auto" })));
}

/** @param {Step} step */
function draw(step) {
  const shown = list.querySelector(`[data-step="${CSS.escape(step.step)}"]`);
  if (!shown) return;
  shown.dataset.state = step.state;
  shown.querySelector(".step-mark").replaceChildren(icon(ICONS[step.state] ?? icons.skipped));
  setText(shown.querySelector(".step-state"), STATES[step.state] ?? step.state);
  setText(shown.querySelector(".step-what"), step.what);
  const took = step.state === "skipped" ? "" : `${Math.max(1, Math.round(step.took_ms))} ms`;
  if (took) shown.querySelector(".step-head").append(element("span", { class: "step-took" }, took));
  if (step.mend) shown.lastElementChild.append(element("p", { class: "step-mend", dir: "auto" }, step.mend));
}

function say(tone, text) {
  verdict.dataset.tone = tone;
  const mark = { busy: element("span", { class: "spinner small", "aria-hidden": "true" }), good: icon(icons.ok), warn: icon(icons.warning) }[tone] ?? icon(icons.failed);
  verdict.replaceChildren(mark, element("span", { dir: "auto" }, text));
}

function title(state) {
  document.title = `${state} · Diagnosis of ${shortId(id)} · Deskfleet`;
}

// ---- asking -----------------------------------------------------------------------------------------------------

/** The lines of the answer as they come. Throws a Problem. */
async function* lines() {
  let answer;
  try {
    answer = await fetch(`/api/v1/sessions/${encodeURIComponent(id)}/diagnosis`, { headers: { Accept: "application/x-ndjson" }, credentials: "same-origin", cache: "no-store" });
  } catch {
    throw new Problem(0, "The server cannot be reached right now.");
  }
  if (!answer.ok) throw problemFrom(answer, await bodyOf(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ value: "", done: true }));
    rest += value ?? "";
    const whole = rest.split("\n");
    rest = whole.pop();
    for (const line of whole) if (line) yield JSON.parse(line);
    if (done) return;
  }
}

async function run() {
  again.disabled = copy.disabled = true;
  found = null;
  setText(copyNote, "");
  list.replaceChildren(...Object.keys(NAMES).map(row));
  say("busy", "Looking, step by step…");
  title("Looking");
  try {
    for await (const line of lines()) {
      if (line.steps) found = line;
      else draw(line);
    }
    if (!found) throw new Problem(0, "The answer broke off. Run it again.");
    finish();
  } catch (problem) {
    if (problem.status === 401) return goToSignIn();
    for (const left of list.querySelectorAll("[data-state=busy]")) left.remove();
    say("bad", problem.message);
    title("Failed");
  } finally {
    again.disabled = false;
    copy.disabled = !found;
  }
}

function finish() {
  const warned = found.steps.some((step) => step.state === "warn");
  say(found.ok ? (warned ? "warn" : "good") : "bad", found.summary);
  title(found.ok ? "Works" : "Fault found");
}

// ---- report -----------------------------------------------------------------------------------------------------

function report() {
  const head = [`Deskfleet: diagnosis of session ${id}`, `At ${found.at}`, found.summary, ""];
  const steps = found.steps.map((step) => {
    const mend = step.mend ? `\n    mend: ${step.mend}` : "";
    return `[${STATES[step.state]}] ${NAMES[step.step]} (${Math.round(step.took_ms)} ms): ${step.what}${mend}`;
  });
  return [...head, ...steps, ""].join("\n");
}

async function copyReport() {
  try {
    await navigator.clipboard.writeText(report());
    setText(copyNote, "Copied.");
  } catch {
    setText(copyNote, "The browser did not let the clipboard be written; select the text instead.");
  }
}

async function drawName() {
  try {
    const session = await getSession(id);
    const name = document.querySelector(".diagnosis-session");
    name.replaceChildren(badge(badgeOf(session)), element("code", { dir: "auto" }, nameOf(session)), element("span", {}, [session.image, session.host].filter(Boolean).join(" · ")));
  } catch {
    // The steps tell what is wrong; the id stands there.
  }
}

again.addEventListener("click", () => {
  drawName();
  run();
});
copy.addEventListener("click", copyReport);
drawName();
run();
