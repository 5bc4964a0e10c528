// What went wrong, in the server's words where it has some, and when it is over.

import * as api from "./api.js";
import { byId, h } from "./dom.js";

const AGAIN = { dead: 2000, loading: 1000 }; // Milliseconds until the server is asked again.

export class ProblemView {
  /** ready(): the server answers (again). retry(): the user wants to try again. */
  constructor({ ready, retry }) {
    this.root = byId("problem");
    this.ready = ready;
    this.retry = retry;
    this.timer = null;
  }

  /** Shows an error. A bug, which is no ServerError, is shown as what it is. */
  show(error) {
    this.clear();
    this.kind = error instanceof api.ServerError ? error.kind : "bug";
    const { message, remedy } = this.kind === "bug" ? { message: `This page has a fault: ${error.message}`, remedy: "Reload it." } : error;
    const again = ["busy", "broken"].includes(this.kind)
      ? h("button", { type: "button", on: { click: () => { this.clear(); this.retry(); } } }, "Try again") : null;
    const close = this.kind in AGAIN || this.kind === "key" ? null
      : h("button", { class: "quiet", type: "button", "aria-label": "Dismiss", on: { click: () => this.clear() } }, "×");
    this.root.replaceChildren(h("p", {}, h("strong", {}, message), remedy ? ` ${remedy}` : ""), ...[this.#keyForm(), again, close].filter(Boolean));
    this.root.dataset.kind = this.kind;
    this.root.hidden = false;
    if (this.kind in AGAIN) this.#wait();
  }

  /** Shows a sentence with a button for what undoes it. */
  offer(message, label, action) {
    this.clear();
    this.root.dataset.kind = "offer";
    this.root.replaceChildren(h("p", {}, message),
      h("button", { type: "button", on: { click: () => { this.clear(); action(); } } }, label),
      h("button", { class: "quiet", type: "button", "aria-label": "Dismiss", on: { click: () => this.clear() } }, "×"));
    this.root.hidden = false;
  }

  clear() {
    clearTimeout(this.timer);
    this.root.hidden = true;
    this.kind = null;
  }

  #wait() {
    this.timer = setTimeout(async () => {
      try {
        await api.health();
        this.clear();
        this.ready();
      } catch (error) {
        if (error.kind === this.kind) this.#wait();
        else this.show(error);
      }
    }, AGAIN[this.kind]);
  }

  #keyForm() {
    if (this.kind !== "key") return null;
    const input = h("input", { type: "password", "aria-label": "API key", placeholder: "API key", autocomplete: "off" });
    const submit = (event) => {
      event.preventDefault();
      api.useKey(input.value);
      this.clear();
      this.ready();
    };
    return h("form", { on: { submit } }, input, h("button", { type: "submit" }, "Use it"));
  }
}
