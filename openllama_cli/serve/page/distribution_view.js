// The distribution of the token that is looked at: what the server made of it, step by step, when the token was drawn; and what
// other sampling settings would leave of it, as they are moved.

import { alike, bits, candidates, collected, groupsOf, percent, sampled, summary, traced } from "./distribution.js";
import { byId, h, on } from "./dom.js";
import { rows, update } from "./rows.js";
import { oneLine, pieceName } from "./visible.js";

const OFF = { temperature: 1, topK: 0, topP: 1, minP: 0 };
const FACTS = ["Entropy, model → sampled", "As equally likely tokens", "Tokens left to draw from", "Probability cut away"];

export class DistributionView {
  /** choose(node, token): called with an alternative that is clicked. */
  constructor(choose) {
    this.root = byId("distribution");
    this.node = null;
    this.shown = "";
    on(this.root, "click", "button.row", (button) => choose(this.node, this.tokens.find(({ id }) => id === Number(button.dataset.id))));
  }

  /** node: whose place in the text is looked at, or null. siblings: the nodes at this place, itself among them. */
  show(node, settings, siblings) {
    const trace = node?.trace && alike(node.trace.settings, settings) ? node.trace : null;
    const state = node && `${node.key}/${node.top?.length}/${node.more?.length}/${siblings.map(({ key }) => key)}`;
    const changed = state !== this.shown || trace !== this.trace || node === null;
    this.shown = state;
    this.trace = trace;
    if (changed) this.#draw(node, siblings);
    if (node?.top) this.#settings(settings);
  }

  #draw(node, siblings) {
    this.node = node;
    if (node === null) {
      this.root.replaceChildren(h("p", { class: "empty" }, "Continue a text, then point at a token to see what else could stand there."));
      return;
    }
    const name = h("q", { class: "name" }, oneLine(node.text || pieceName(node.piece)));
    if (!node.top) {
      const why = node.logprob === null && node.parent === 0 ? "is the beginning; nothing predicts it." : "came without alternatives.";
      this.root.replaceChildren(h("p", { class: "subject" }, name, ` ${why}`));
      return;
    }
    this.tokens = candidates(node, siblings);
    this.groups = groupsOf(this.tokens, node.entropy, node.more);
    const explored = new Set(siblings.map(({ id }) => id));
    const { columns, groups } = this.trace ? traced(this.trace, this.tokens) : { columns: [], groups: collected(sampled(this.groups, OFF)) };
    this.list = rows(groups, { chosen: node.id, explored, compare: true });
    this.list.style.setProperty("--steps", columns.length + 1);
    const taken = this.trace?.candidates.find((one) => one.taken);
    // Of one length, so that no slider moves away under a finger.
    const drawn = taken ? `, and was drawn with ${percent(taken.drawn)}` : node.trace ? "; drawn with other settings" : "";
    const heads = ["model", ...columns, taken ? "drawn" : "sampled"];
    this.facts = FACTS.map((term) => [term, h("dd")]);
    this.root.replaceChildren(
      h("p", { class: "subject" }, name, ` had ${percent(Math.exp(node.logprob))}, a surprisal of ${bits(node.logprob).toFixed(2)} bits${drawn}.`),
      h("p", { class: "columns", "aria-hidden": "true" }, ...heads.map((head) => h("span", {}, head))),
      this.list,
      h("dl", { class: "facts" }, ...this.facts.map(([term, value]) => h("div", {}, h("dt", {}, term), value))),
    );
  }

  #settings(settings) {
    const all = sampled(this.groups, settings);
    if (!this.trace) update(this.list, collected(all));
    const { cut, tokens, entropy } = summary(all);
    const before = this.node.entropy ?? summary(sampled(this.groups, OFF)).entropy;
    const values = [
      `${before.toFixed(2)} → ${entropy.toFixed(2)} bits`,
      `${(2 ** before).toFixed(1)} → ${(2 ** entropy).toFixed(1)}`,
      all.some(({ kept, count }) => count > 1 && kept > 0) ? `about ${Math.round(tokens)}` : String(Math.round(tokens)),
      cut < 1e-9 ? "nothing" : percent(cut),
    ];
    this.facts.forEach(([, element], place) => (element.textContent = values[place]));
  }
}
