// One continuation after another: asks the server and grows the tree with what comes.

import * as api from "./api.js";
import { Answer } from "./answer.js";
import { body } from "./commands.js";

const ALTERNATIVES = 10;

export class Session {
  /**
   * tree: where tokens go. modelId: whom to ask.
   * grew(nodes): called with the nodes of the branch that is shown as they come.
   */
  constructor(tree, modelId, grew) {
    this.tree = tree;
    this.modelId = modelId;
    this.grew = grew;
    this.abort = null;
  }

  get running() {
    return this.abort !== null;
  }

  stop() {
    this.abort?.abort();
  }

  /**
   * Continues after `ids`; what the tree does not know of them is asked for too. The shown text ends where the first branch
   * does. Returns {tokens, seconds, finish, stopped}. Raises ServerError; what came until then is in the tree.
   */
  async run(ids, settings) {
    const known = this.tree.along(ids);
    // Nothing predicts the first token; alternatives of the others may have been dropped by a full storage.
    const echo = known.length < ids.length || known.some((node) => node.parent !== 0 && node.top === null);
    const request = { ...body(this.modelId, ids, settings), logprobs: ALTERNATIVES, echo, olc: { tokens: true, trace: true } };
    const abort = (this.abort = new AbortController());
    const started = performance.now();
    const branches = new Map();
    let generated = 0;
    try {
      for await (const chunk of api.complete(request, abort.signal)) {
        for (const choice of chunk.choices ?? []) {
          const start = echo ? [] : known.map((node) => node.key);
          const branch = branches.get(choice.index) ?? { answer: new Answer(), keys: start, offset: start.length };
          if (!branches.has(choice.index)) {
            branches.set(choice.index, branch);
            if (choice.index === 0 && known.length > 0) this.tree.visit(known.at(-1).key);
          }
          generated += choice.olc?.tokens?.length ?? 0;
          const nodes = this.#grow(branch, branch.answer.push(choice), ids.length, settings);
          if (choice.index === 0 && nodes.length > 0) {
            this.tree.visit(nodes.at(-1).key);
            this.grew(nodes.filter((node) => node.by === "model"));
          }
        }
      }
    } finally {
      this.abort = null;
    }
    const finish = branches.get(0)?.answer.finish ?? null;
    return { tokens: generated, seconds: (performance.now() - started) / 1000, finish, stopped: abort.signal.aborted };
  }

  #grow({ answer, keys, offset }, { first, tokens }, written, settings) {
    return tokens.filter((token) => !(answer.finish === "stop" && token.text === "")).map((token, step) => {
      const place = offset + first + step;
      // Of a token that is partly in the stop string the text has only a part; the tree has whole tokens.
      if (answer.finish === "stop" && token.piece.startsWith(token.text)) token.text = token.piece;
      const by = place < written ? "you" : "model";
      if (token.trace) token.trace = { ...token.trace, settings };
      const node = this.tree.add(place === 0 ? 0 : keys[place - 1], { ...token, by });
      if (answer.finish === "eos" && place === offset + answer.entries.length - 1) node.by = "end";
      keys[place] = node.key;
      return node;
    });
  }
}
