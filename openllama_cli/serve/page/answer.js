// From the chunks of a streamed answer to tokens, each with the text that it adds.

/** Collects one choice of a completion. Offsets count characters (code points), as the server does. */
export class Answer {
  constructor() {
    this.characters = [];
    this.entries = [];
    this.finish = null;
  }

  /** Adds a chunk's choice. Returns its tokens, and those before whose text changed: [{id, piece, text, logprob, …}]. */
  push(choice) {
    const before = this.characters.length;
    this.characters.push(...(choice.text ?? ""));
    let first = this.entries.length;
    while (first > 0 && this.entries[first - 1].offset >= before) first -= 1;
    first = Math.max(0, first - 1); // It ends where the next one begins, which was not known.
    const { prompt = [], tokens = [], finish_reason: finish } = choice.olc ?? {};
    this.entries.push(...prompt, ...tokens);
    this.finish = finish ?? choice.finish_reason ?? this.finish;
    return { first, tokens: this.entries.slice(first).map((entry, place) => this.#token(entry, first + place)) };
  }

  #token({ id, text: piece, offset, logprob, entropy, top, trace = null }, place) {
    const end = this.entries[place + 1]?.offset ?? this.characters.length;
    const text = this.characters.slice(offset, end).join("");
    const alternatives = top?.length ? top.map(([one, shown, value]) => ({ id: one, text: shown, logprob: value })) : null;
    return { id, piece, text, logprob: logprob ?? null, entropy: entropy ?? null, top: alternatives, trace };
  }
}
