// The text under work: what is shown of the tree, whether it is being edited, and everything that can be done with it.

import * as api from "./api.js";
import { Depth } from "./depth.js";
import { byId } from "./dom.js";
import { Session } from "./session.js";
import { Store } from "./store.js";
import { Tree } from "./tree.js";

const ENDS = { eos: "The model ended the text.", stop: "Reached a stop.", context: "The model’s context is full." };

export class Editor {
  /** problem, announcer, controls: of the page. changed(): called whenever something is to be drawn. */
  constructor({ problem, announcer, controls, changed }) {
    Object.assign(this, { problem, announcer, controls, changed });
    this.draft = byId("draft");
    this.tree = new Tree();
    this.node = null; // The token that is looked at.
    this.writing = true; // Whether the text is being edited, in `draft`.
    this.session = null; // Until the model is known, whose tokens the tree holds.
    this.status = ""; // How the last continuation ended.
    this.retry = null; // What failed.
    this.busy = Promise.resolve(); // The continuation under way.
    this.looking = false; // Whether someone chose to look at `node`.
    this.depth = new Depth(changed);
  }

  get running() {
    return this.session?.running ?? false;
  }

  /** Opens the tree that the browser kept for a model: {id, olc: {bos_id, eos_ids, precision}}. */
  open({ id: modelId, olc }) {
    this.eos = olc?.eos_ids ?? [];
    this.precision = olc?.precision ?? null;
    this.bos = olc?.bos_id ?? null;
    const full = () => this.announcer.say("The browser’s storage is full: older alternatives were dropped.");
    this.store = new Store(modelId, full);
    this.#use(this.store.load(), modelId);
  }

  #use(tree, modelId) {
    this.tree = tree;
    this.session = new Session(tree, modelId, (nodes) => this.#grew(nodes));
    this.writing = tree.leaf === 0 || this.draft.value !== "";
    this.node = tree.path().at(-1) ?? null;
  }

  stop() {
    this.session?.stop();
  }

  /** A token of the text is looked at. */
  look(node) {
    this.node = node;
    this.looking = true;
    if (!this.running) this.depth.look(node, this.#idsUpTo(node.parent), this.session.modelId);
  }

  /** Another action ends the continuation under way; what came of it is kept. */
  async #free() {
    this.stop();
    await this.busy;
  }

  /** The ids of the text that is written or shown; a text that was not changed keeps those that it has. */
  async ids() {
    const text = this.draft.value;
    return this.writing && (this.tree.leaf === 0 || text !== this.tree.text()) ? api.tokenize(text) : this.#idsUpTo(this.tree.leaf);
  }

  #idsUpTo(key) {
    const path = this.tree.path(key);
    // After the end there is nothing to continue: the model decides again whether the text ends there.
    return path.filter((node, place) => node.by !== "end" || place < path.length - 1).map((node) => node.id);
  }

  /** Continues the text as it is written, or as it is shown. */
  async submit() {
    if (!this.session || this.running) return;
    try {
      const ids = await this.ids();
      this.tree.mark();
      await this.#continue(ids);
    } catch (error) {
      this.#failed(error, () => this.submit());
    }
  }

  /** Continues after a token of the text that is shown. */
  async continueAfter(node) {
    await this.#free();
    this.tree.mark();
    await this.#continue(this.#idsUpTo(node.key));
  }

  async #continue(ids) {
    this.depth.leave();
    this.problem.clear();
    this.announcer.say("Continuing.");
    this.status = "Waiting for the model…";
    const run = this.session.run(ids, this.controls.settings);
    this.busy = run.then(() => {}, () => {});
    this.changed();
    try {
      const { tokens, seconds, finish, stopped } = await run;
      const end = stopped ? "Stopped." : ENDS[finish] ?? "";
      const speed = tokens > 1 && seconds > 0 ? `, ${(tokens / seconds).toFixed(0)} tokens/s` : "";
      this.status = `${tokens} ${tokens === 1 ? "token" : "tokens"} in ${seconds.toFixed(1)} s${speed}. ${end}`;
      this.announcer.finish(end || "Done.");
    } catch (error) {
      this.status = "";
      this.#failed(error, () => this.submit());
    }
    this.store.save(this.tree, { now: true });
    this.changed();
  }

  #failed(error, retry) {
    this.retry = retry;
    this.problem.show(error);
  }

  #grew(nodes) {
    this.status = "";
    if (this.writing) {
      this.writing = false;
      this.draft.value = "";
    }
    this.announcer.add(nodes.map((node) => node.text).join(""));
    if (!this.looking) this.node = this.tree.path().at(-1);
    this.store.save(this.tree);
    this.changed();
  }

  /** Puts another token in a node's place: goes to that branch, or makes it and continues. */
  async choose(node, token) {
    await this.#free();
    const existing = this.tree.child(node.parent, token.id);
    this.tree.mark();
    if (existing) return this.#show(this.tree.end(existing.key), existing);
    // Only here is it known what the token adds to the text: its own text, but for a space at the very beginning.
    const ends = this.eos.includes(token.id);
    const text = ends || token.id === this.bos || token.text.startsWith("bytes:") ? "" : token.text;
    const before = this.tree.text(node.parent);
    const { entropy, top } = node;
    const made = this.tree.add(node.parent, {
      id: token.id, piece: token.text, text: before === "" ? text.replace(/^ /, "") : text, logprob: token.logprob, entropy, top,
      by: ends ? "end" : "you",
    });
    this.#show(made.key, made);
    if (ends) return;
    await this.#continue(this.#idsUpTo(made.key));
  }

  /** Shows the branch that begins with a node. */
  async go(key) {
    await this.#free();
    this.tree.mark();
    this.#show(this.tree.end(key), this.tree.get(key));
  }

  async back() {
    await this.#free();
    if (this.tree.back()) this.#show(this.tree.leaf);
  }

  /** Begins another text. */
  async fresh() {
    await this.#free();
    this.tree.mark();
    this.#show(0);
    this.draft.focus();
  }

  async remove(key) {
    await this.#free();
    const undo = this.tree.remove(key);
    this.#show(this.tree.leaf);
    this.problem.offer("The branch is deleted.", "Undo", async () => {
      await this.#free();
      this.#use(undo(), this.session.modelId);
      this.#show(this.tree.leaf);
    });
  }

  #show(leaf, node = this.tree.get(leaf) ?? null) {
    this.tree.visit(leaf);
    this.node = node;
    this.writing = leaf === 0;
    this.draft.value = "";
    this.status = "";
    this.store.save(this.tree, { now: true });
    this.changed();
  }

  /** Begins to edit the text that is shown, or leaves it as it was. */
  edit(writing = !this.writing) {
    this.writing = writing;
    this.draft.value = writing ? this.tree.text() : "";
    this.changed({ now: true });
    if (!writing) return;
    this.draft.focus();
    this.draft.setSelectionRange(this.draft.value.length, this.draft.value.length);
  }

  /** What Continue would send: {modelId, precision, text, ids, same, settings}; same: whether the text, encoded anew, gives the ids. */
  async request() {
    const ids = await this.ids();
    const text = this.writing ? this.draft.value : this.tree.text(this.tree.along(ids).at(-1)?.key ?? 0);
    const again = await api.tokenize(text);
    const same = again.length === ids.length && again.every((id, place) => id === ids[place]);
    return { modelId: this.session.modelId, precision: this.precision, text, ids, same, settings: this.controls.settings };
  }
}
