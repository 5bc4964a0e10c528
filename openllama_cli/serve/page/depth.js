// More of the distribution of the token that is looked at: its hundred most likely tokens instead of ten. What temperature and
// cuts do to a flat distribution shows only there.

import * as api from "./api.js";

const MOST = 100; // The server reports no more.
const PAUSE = 250; // Milliseconds that a token is looked at before the server is asked.

export class Depth {
  /** changed(): a node has got its `more`, the log-probabilities of the tokens after those in `top`, which no storage keeps. */
  constructor(changed) {
    this.changed = changed;
    this.abort = null;
    this.timer = null;
  }

  /** A node is looked at; ids: the path to it, without it. */
  look(node, ids, modelId) {
    this.leave();
    if (!node.top || node.more || ids.length === 0) return;
    this.timer = setTimeout(() => this.#ask(node, ids, modelId), PAUSE);
  }

  leave() {
    clearTimeout(this.timer);
    this.abort?.abort();
  }

  async #ask(node, ids, modelId) {
    const abort = (this.abort = new AbortController());
    const request = { model: modelId, prompt: ids, max_tokens: 1, temperature: 0, logprobs: MOST, olc: { tokens: true } };
    try {
      for await (const chunk of api.complete(request, abort.signal)) {
        const [entry] = chunk.choices?.[0]?.olc?.tokens ?? [];
        if (!entry) continue;
        const shown = new Set(node.top.map(({ id }) => id));
        node.more = entry.top.filter(([id]) => !shown.has(id)).map(([id, , logprob]) => ({ id, logprob }));
        this.changed();
      }
    } catch {
      // The ten that are there do, and whatever is wrong shows when the text is continued.
    }
  }
}
