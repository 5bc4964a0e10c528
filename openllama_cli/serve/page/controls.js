// Sampling settings: a form with a slider and a number for each, kept by the browser.

import { byId, h } from "./dom.js";

const KEPT = "olc-playground-settings";

/** topP 1, topK 0, minP 0: off. temperature 0: greedy. seed null: another one each time. */
export const DEFAULTS = { temperature: 0.8, topP: 0.95, topK: 0, minP: 0, maxTokens: 64, seed: null, branches: 1, stop: [] };

const SLIDERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "Lower favors likely tokens; 0 is greedy" },
  { name: "topP", label: "Top-p", min: 0.05, max: 1, step: 0.01, hint: "The fewest tokens with P of the probability; 1 is off" },
  { name: "topK", label: "Top-k", min: 0, max: 50, step: 1, hint: "The K most likely tokens; 0 is off" },
  { name: "minP", label: "Min-p", min: 0, max: 0.5, step: 0.01, hint: "At least P times as likely as the most likely; 0 is off" },
];
const LIMITS = { temperature: [0, 100], topP: [1e-6, 1], topK: [0, 1e6], minP: [0, 1], maxTokens: [1, 1e6], branches: [1, 5] };

export class Controls {
  /** changed(settings): called as a slider moves. */
  constructor(changed) {
    this.changed = changed;
    this.settings = { ...DEFAULTS, ...stored() };
    this.form = byId("controls");
    this.form.append(...SLIDERS.map((slider) => this.#slider(slider)), this.#numbers());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.#show();
  }

  #slider({ name, label, min, max, step, hint }) {
    const set = (event) => this.#set(name, event.target.value, event.target);
    const id = `set-${name}`;
    return h("div", { class: "slider" },
      h("label", { for: id }, label),
      h("input", { id: `${id}-number`, class: "number", type: "number", min, max: LIMITS[name][1], step: "any",
        "aria-label": `${label}, as a number`, on: { change: set } }),
      h("input", { id, type: "range", min, max, step, "aria-describedby": `${id}-hint`, on: { input: set } }),
      h("p", { id: `${id}-hint`, class: "hint" }, hint));
  }

  #numbers() {
    const field = (name, label, extra) =>
      h("div", { class: "field" }, h("label", { for: `set-${name}` }, label),
        h("input", { id: `set-${name}`, ...extra, on: { change: (event) => this.#set(name, event.target.value, event.target) } }));
    return h("div", { class: "fields" },
      field("maxTokens", "Tokens", { type: "number", min: 1, inputmode: "numeric" }),
      field("branches", "Branches", { type: "number", min: 1, max: 5, inputmode: "numeric" }),
      field("seed", "Seed", { type: "text", inputmode: "numeric", placeholder: "any" }),
      field("stop", "Stop at", { type: "text", placeholder: "\\n", title: "\\n is a newline, \\t a tab, \\\\ a backslash" }));
  }

  #set(name, text, source) {
    const value = parsed(name, text);
    if (value !== undefined) this.settings = { ...this.settings, [name]: value };
    this.#show(value === undefined ? null : source);
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.settings));
    } catch {
      // Private windows and full storages keep nothing.
    }
    this.changed(this.settings);
  }

  /** Writes the settings into the form, but not over what is being typed. */
  #show(source = null) {
    const set = (id, value) => {
      const input = byId(id);
      if (input !== source) input.value = value;
    };
    for (const { name } of SLIDERS) {
      set(`set-${name}`, this.settings[name]);
      set(`set-${name}-number`, this.settings[name]);
    }
    set("set-maxTokens", this.settings.maxTokens);
    set("set-branches", this.settings.branches);
    set("set-seed", this.settings.seed ?? "");
    set("set-stop", this.settings.stop.map(escaped).join(""));
    const greedy = this.settings.temperature === 0;
    for (const id of ["set-topP", "set-topK", "set-minP", "set-seed", "set-branches"]) {
      byId(id).closest("div").classList.toggle("idle", greedy);
    }
  }
}

/** A setting from what was typed; undefined for what is none. */
export function parsed(name, text) {
  if (name === "stop") return text === "" ? [] : [unescaped(text)];
  if (name === "seed") return /^\s*$/.test(text) ? null : /^\s*\d{1,15}\s*$/.test(text) ? Number(text) : undefined;
  const value = Number(String(text).replace(",", "."));
  if (String(text).trim() === "" || !Number.isFinite(value)) return undefined;
  const [least, most] = LIMITS[name];
  const bounded = Math.min(most, Math.max(least, value));
  return ["topK", "maxTokens", "branches"].includes(name) ? Math.round(bounded) : bounded;
}

const unescaped = (text) => text.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);
const escaped = (text) => text.replace(/[\n\t\\]/g, (one) => ({ "\n": "\\n", "\t": "\\t", "\\": "\\\\" })[one]);

function stored() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT)) ?? {};
    const valid = Object.entries(kept).filter(([name, value]) => name in DEFAULTS && typeof value === typeof (DEFAULTS[name] ?? 0));
    return Object.fromEntries(valid.filter(([name, value]) => name !== "stop" || Array.isArray(value)));
  } catch {
    return {};
  }
}
