// The tree of branches: a stretch of text a button, from fork to fork.

import { byId, h, on } from "./dom.js";
import { oneLine, pieceName } from "./visible.js";

const LONG = 90; // Characters of a stretch that are shown.

export class BranchesView {
  /** go(key): a branch is chosen. remove(key): it is to go. */
  constructor({ go, remove }) {
    this.root = byId("branches");
    on(this.root, "click", "button.go", (button) => go(Number(button.dataset.first)));
    on(this.root, "click", "button.remove", (button) => remove(Number(button.dataset.first)));
  }

  update(tree) {
    const shown = new Set(tree.path().map((node) => node.key));
    // The beginning (BOS) is the same for all texts: its children are the first level.
    let stretches = tree.stretches();
    if (stretches.length === 1 && stretches[0].nodes.length === 1) stretches = stretches[0].stretches;
    if (stretches.length === 0) {
      this.root.replaceChildren(h("p", { class: "empty" }, "Each other way a text goes on becomes a branch here."));
      return;
    }
    const focused = document.activeElement?.dataset?.first;
    this.root.replaceChildren(list(stretches, shown));
    if (focused !== undefined) this.root.querySelector(`button.go[data-first="${focused}"]`)?.focus();
  }
}

function list(stretches, shown) {
  return h("ul", {}, ...stretches.map((stretch) => h("li", {}, item(stretch, shown), stretch.stretches.length ? list(stretch.stretches, shown) : null)));
}

function item({ first, nodes, stretches }, shown) {
  const text = nodes.map((node) => node.text).join("");
  const name = oneLine(text.trim()) || oneLine(pieceName(nodes.at(-1).piece));
  const label = name.length > LONG ? `${name.slice(0, LONG - 30)} … ${name.slice(-25)}` : name;
  const here = shown.has(first);
  const ends = stretches.length === 0;
  return h("div", { class: here ? "stretch here" : "stretch" },
    h("button", { class: "go", type: "button", "data-first": first, "aria-current": here ? "true" : null },
      label, h("span", { class: "count" }, ` ${nodes.length}`)),
    h("button", { class: "remove quiet", type: "button", "data-first": first,
      "aria-label": `Delete the branch ${ends ? "" : "with all that follows "}“${label}”`, title: "Delete" }, "×"));
}
