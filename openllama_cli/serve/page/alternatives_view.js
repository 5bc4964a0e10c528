// What else could stand in a token's place: beside the token on a wide screen, from below on a narrow one.

import { bits, candidates, percent } from "./distribution.js";
import { byId, h, on } from "./dom.js";
import { rows } from "./rows.js";
import { oneLine, pieceName } from "./visible.js";

const GAP = 6; // Pixels between the token and the list.

export class AlternativesView {
  /** choose(node, token), goOn(node): called for an alternative, and for continuing after the token itself. */
  constructor({ choose, goOn, closed }) {
    this.root = byId("alternatives");
    this.node = null;
    this.closed = closed;
    on(this.root, "click", "button.row", (button) => {
      const { node } = this;
      const token = this.tokens.find(({ id }) => id === Number(button.dataset.id));
      this.close();
      if (token.id === node.id) goOn(node);
      else choose(node, token);
    });
    on(this.root, "click", "button.on", () => {
      const { node } = this;
      this.close();
      goOn(node);
    });
    on(this.root, "click", "button.close", () => this.close());
    this.root.addEventListener("keydown", (event) => this.#key(event));
  }

  get open() {
    return !this.root.hidden;
  }

  /** anchor: the token's element. siblings: the nodes at its place. */
  show(node, anchor, siblings) {
    this.node = node;
    this.anchor = anchor;
    const name = oneLine(node.text || pieceName(node.piece));
    const says = node.logprob === null ? "the beginning" : `${percent(Math.exp(node.logprob))} · ${bits(node.logprob).toFixed(1)} bits`;
    this.tokens = node.top ? candidates(node, siblings) : [];
    const groups = this.tokens.map((token) => ({ token, p: Math.exp(token.logprob) })).sort((a, b) => b.p - a.p);
    const explored = new Set(siblings.map(({ id }) => id));
    this.root.replaceChildren(
      h("p", { class: "head" }, h("q", { class: "name" }, name), h("span", { class: "says" }, says),
        h("span", { class: "id" }, `id ${node.id}`), h("button", { class: "close quiet", type: "button", "aria-label": "Close" }, "×")),
      rows(groups, { chosen: node.id, explored, compare: false }),
      node.by === "end" ? "" : h("button", { class: "on", type: "button" }, "Continue after this token"),
    );
    this.root.hidden = false;
    this.root.setAttribute("aria-label", `Alternatives to ${name}`);
    this.#place();
  }

  close({ focus = false } = {}) {
    if (!this.open) return;
    const had = this.root.contains(document.activeElement);
    this.root.hidden = true; // The focus in it is lost.
    if (focus || had) this.anchor?.focus({ preventScroll: true });
    this.closed();
  }

  /** Moves the focus to the token in the text, or to the first. */
  enter() {
    (this.root.querySelector(".row.here") ?? this.root.querySelector("button.row, button.on"))?.focus();
  }

  #key(event) {
    const buttons = [...this.root.querySelectorAll("button.row, button.on")];
    const place = buttons.indexOf(document.activeElement);
    const moves = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: buttons.length - 1 };
    if (event.key === "Escape") this.close({ focus: true });
    else if (event.key in moves) buttons[Math.min(buttons.length - 1, Math.max(0, moves[event.key]))]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Under the token, or above it where there is more room. On narrow screens the style sheet places it. */
  #place() {
    const covered = this.anchor.getBoundingClientRect().bottom - this.root.getBoundingClientRect().top;
    if (getComputedStyle(this.root).position === "fixed") return covered > -GAP ? scrollBy(0, covered + 4 * GAP) : undefined;
    const rect = this.anchor.getClientRects()[0] ?? this.anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.root;
    // Within the text's own column, so that it covers no panel.
    const column = this.anchor.parentElement.getBoundingClientRect();
    const left = Math.max(column.left, Math.min(rect.left - 12, column.right - width));
    const below = rect.bottom + GAP + height < innerHeight || rect.top < height + GAP;
    this.root.style.setProperty("--left", `${left + scrollX}px`);
    this.root.style.setProperty("--top", `${(below ? rect.bottom + GAP : rect.top - GAP - height) + scrollY}px`);
  }
}
