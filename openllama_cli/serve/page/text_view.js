// The text, token by token: each shaded by how surprising it was.

import { bits, percent } from "./distribution.js";
import { byId, h, on } from "./dom.js";
import { pieceName, runs, sign, spoken } from "./visible.js";

const HOVER = 140; // Milliseconds before a token's alternatives open under a pointer, and before they close.
const LEAVE = 300;

/** How much a token is shaded, 0 to 1: most from 10 bits on, which is one in a thousand. */
export const shade = (logprob) => Math.min(1, bits(logprob) / 10) ** 0.75;

export class TextView {
  /**
   * point(node, element): a token is looked at. leave(): no longer. enter(): its alternatives get the focus.
   */
  constructor({ point, leave, enter }) {
    this.root = byId("text");
    this.shown = []; // [{node, element, state}]
    this.timer = null;
    const wait = (milliseconds, action) => {
      clearTimeout(this.timer);
      this.timer = setTimeout(action, milliseconds);
    };
    on(this.root, "pointermove", ".token", (element, event) => {
      // Text that moves under a resting pointer is not pointed at.
      if (event.pointerType !== "mouse" || event.buttons !== 0 || !(event.movementX || event.movementY)) return;
      if (element !== this.over) wait(HOVER, () => this.#pick(element, point));
      this.over = element;
    });
    this.root.addEventListener("pointerleave", (event) => {
      this.over = null;
      if (event.pointerType === "mouse") wait(LEAVE, leave);
    });
    const list = byId("alternatives");
    list.addEventListener("pointerenter", () => clearTimeout(this.timer));
    list.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && wait(LEAVE, leave));
    on(this.root, "click", ".token", (element) => {
      clearTimeout(this.timer);
      this.#focus(this.#place(element));
      this.#pick(element, point);
    });
    this.root.addEventListener("focusin", (event) => {
      if (event.target.matches(".token:focus-visible")) this.#pick(event.target, point);
    });
    this.root.addEventListener("keydown", (event) => this.#key(event, point, enter));
    // Whoever tabs on has left the text, unless to its alternatives.
    const left = ({ relatedTarget: next }) => next && !next.closest("#text, #alternatives") && leave();
    this.root.addEventListener("focusout", left);
    list.addEventListener("focusout", left);
  }

  /** Shows the nodes of a path; elements of nodes that stay are kept. `forked(node)`: whether other branches begin there. */
  update(path, forked) {
    const before = this.shown.length;
    let same = 0;
    while (same < path.length && this.shown[same]?.node.key === path[same].key) same += 1;
    for (const { element } of this.shown.splice(same)) element.remove();
    path.forEach((node, place) => {
      const state = `${node.text}|${node.logprob}|${node.by}|${forked(node)}`;
      const old = this.shown[place];
      if (old?.state === state) {
        old.node = node;
        return;
      }
      const element = this.#element(node, forked(node));
      if (old) {
        element.tabIndex = old.element.tabIndex;
        old.element.replaceWith(element);
      } else this.root.append(element);
      this.shown[place] = { node, element, state };
    });
    // Tab goes to the last token of a text that has grown, unless somebody is in it.
    const grown = path.length > before && !document.activeElement?.closest("#text, #alternatives");
    if (path.length > 0 && (grown || !this.shown.some(({ element }) => element.tabIndex === 0))) this.#stop(this.shown.at(-1).element);
  }

  element(node) {
    return this.shown.find((one) => one.node.key === node?.key)?.element ?? null;
  }

  /** Marks the token that is looked at. */
  mark(node) {
    for (const { element, node: one } of this.shown) element.setAttribute("aria-selected", String(one.key === node?.key));
  }

  #element(node, forked) {
    const known = node.logprob !== null;
    // The space before a word is not shaded: it would hang at the end of a line.
    const space = /^ +(?=[^ ])/.exec(node.text)?.[0] ?? "";
    const parts = node.text === "" ? [h("span", { class: "sign" }, pieceName(node.piece))] : runs(node.text.slice(space.length)).map(shown);
    const says = `${spoken(node.text || pieceName(node.piece))}${known ? `, ${percent(Math.exp(node.logprob))}` : ""}`;
    return h("span", { class: `token ${node.by}${forked ? " forked" : ""}`, role: "option", tabindex: -1, "aria-selected": "false",
      "aria-label": forked ? `${says}, other branches begin here` : says,
      style: { "--s": known ? shade(node.logprob).toFixed(3) : 0 } },
      space, h("span", { class: "shade" }, ...parts));
  }

  #place(element) {
    return this.shown.findIndex((one) => one.element === element);
  }

  #pick(element, point) {
    const found = this.shown[this.#place(element)];
    if (found) point(found.node, element);
  }

  #focus(place) {
    const { element } = this.shown[place];
    this.#stop(element);
    element.focus({ preventScroll: false });
  }

  /** Where Tab enters the text. */
  #stop(at) {
    for (const { element } of this.shown) element.tabIndex = element === at ? 0 : -1;
  }

  #key(event, point, enter) {
    const place = this.#place(event.target);
    if (place < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: this.shown.length - 1 };
    if (event.key in moves) {
      this.#focus(Math.min(this.shown.length - 1, Math.max(0, moves[event.key])));
    } else if (["ArrowDown", "Enter", " "].includes(event.key)) {
      this.#pick(event.target, point);
      enter();
    } else return;
    event.preventDefault();
  }
}

function shown({ text, hidden }) {
  if (!hidden) return text;
  // A newline and a tab are seen and take effect; nothing else that is hidden does.
  const effect = text === "\n" || text === "\t" ? text : "";
  // A word joiner keeps the sign on the line that it ends.
  return h("span", { class: "sign" }, effect ? `\u2060${sign(text)}${effect}` : sign(text));
}
