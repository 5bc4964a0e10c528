// The tree in the browser's storage: one for each model, since ids mean nothing to another one.

import { Tree } from "./tree.js";

const SOON = 800; // Milliseconds between two writes while a text streams.

export class Store {
  /** full(): called when alternatives had to be dropped to make room. */
  constructor(model, full) {
    this.key = `olc-playground-tree:${model}`;
    this.full = full;
    this.timer = null;
    this.tree = null;
    addEventListener("pagehide", () => this.timer && this.#write());
  }

  load() {
    try {
      return Tree.parse(localStorage.getItem(this.key) ?? "{}");
    } catch {
      return new Tree(); // Storage may be forbidden.
    }
  }

  /** Writes the tree soon, or now. */
  save(tree, { now = false } = {}) {
    this.tree = tree;
    if (now) this.#write();
    else this.timer ??= setTimeout(() => this.#write(), SOON);
  }

  #write() {
    clearTimeout(this.timer);
    this.timer = null;
    const tree = this.tree;
    for (const drop of [null, "others", "all"]) {
      if (drop !== null) {
        const shown = new Set(drop === "others" ? tree.path().map((node) => node.key) : []);
        for (const node of tree.nodes.values()) if (!shown.has(node.key)) node.top = null;
        this.full(drop);
      }
      try {
        localStorage.setItem(this.key, JSON.stringify(tree));
        return;
      } catch (error) {
        if (error.name !== "QuotaExceededError") return;
      }
    }
  }
}
