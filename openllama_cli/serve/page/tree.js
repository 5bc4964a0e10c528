// The tree of everything written, chosen and generated: one node a token. What begins alike shares its nodes, so going on from
// any token makes a branch, and the same tokens again make none.

const VERSION = 1;

/**
 * A node: key, parent (a key), id (of the token), text (what the token adds to the text), piece (the token as OpenAI spells
 * it), logprob, entropy (bits), top ([{id, text, logprob}] or null), by ("you", "model", or "end" for the token that ended a text), last (the child visited last),
 * trace (what the server's processors did when the token was drawn, with the settings; not kept by the browser).
 */
export class Tree {
  constructor() {
    this.nodes = new Map();
    this.children = new Map([[0, []]]);
    this.next = 1; // Key 0 is the root, which is no token.
    this.leaf = 0; // The end of the text that is shown.
    this.visited = []; // Where it ended before, for going back.
  }

  get(key) {
    return this.nodes.get(key);
  }

  has(key) {
    return key === 0 || this.nodes.has(key);
  }

  /** The nodes from the first token to `key`. */
  path(key = this.leaf) {
    const nodes = [];
    for (let node = this.get(key); node; node = this.get(node.parent)) nodes.push(node);
    return nodes.reverse();
  }

  text(key = this.leaf) {
    return this.path(key).map((node) => node.text).join("");
  }

  child(parent, id) {
    return this.children.get(parent).map((key) => this.get(key)).find((node) => node.id === id);
  }

  siblings(key) {
    return this.children.get(this.get(key).parent).map((one) => this.get(one));
  }

  /** The child of `parent` with this token, made if there is none. What is known of the token is added to what was. */
  add(parent, token) {
    let node = this.child(parent, token.id);
    const { by, ...known } = token;
    if (!node) {
      node = { key: this.next++, parent, id: token.id, text: "", piece: "", logprob: null, entropy: null, top: null, by };
      this.nodes.set(node.key, node);
      this.children.set(node.key, []);
      this.children.get(parent).push(node.key);
    }
    for (const [name, value] of Object.entries(known)) if (value !== null && value !== undefined) node[name] = value;
    return node;
  }

  /** Going back will lead to the text that is shown now. */
  mark() {
    if (this.visited.at(-1) !== this.leaf) this.visited.push(this.leaf);
    if (this.visited.length > 200) this.visited.shift();
  }

  /** Shows the text that ends at `key`. */
  visit(key) {
    this.leaf = key;
    for (let node = this.get(key); node; node = this.get(node.parent)) if (node.parent) this.get(node.parent).last = node.key;
  }

  /** Shows what was shown before. Returns whether there was anything. */
  back() {
    for (;;) {
      const key = this.visited.pop();
      if (key === undefined) return false;
      if (key === this.leaf || !this.has(key)) continue;
      this.visit(key);
      return true;
    }
  }

  /** The nodes along these ids, as far as there are any. */
  along(ids) {
    const nodes = [];
    for (const id of ids) {
      const node = this.child(nodes.at(-1)?.key ?? 0, id);
      if (!node) break;
      nodes.push(node);
    }
    return nodes;
  }

  /** From `key` on along the children visited last, to an end. */
  end(key) {
    for (;;) {
      const children = this.children.get(key);
      if (children.length === 0) return key;
      const last = this.get(key)?.last;
      key = children.includes(last) ? last : children.at(-1);
    }
  }

  /** Takes a branch away. Returns what puts it back. */
  remove(key) {
    const before = JSON.stringify(this);
    const { parent } = this.get(key);
    const wasShown = this.path().some((node) => node.key === key);
    const gone = [key];
    for (const one of gone) gone.push(...this.children.get(one));
    for (const one of gone) {
      this.nodes.delete(one);
      this.children.delete(one);
    }
    this.children.set(parent, this.children.get(parent).filter((one) => one !== key));
    this.visited = this.visited.filter((one) => this.has(one));
    if (wasShown) this.visit(this.end(parent));
    return () => Tree.parse(before);
  }

  /** Tokens up to the next fork or end as one stretch: [{first, last, nodes, stretches}] of the branches after `key`. */
  stretches(key = 0) {
    return this.children.get(key).map((first) => {
      const keys = [first];
      while (this.children.get(keys.at(-1)).length === 1) keys.push(this.children.get(keys.at(-1))[0]);
      const nodes = keys.map((one) => this.get(one));
      return { first, last: keys.at(-1), nodes, stretches: this.stretches(keys.at(-1)) };
    });
  }

  toJSON() {
    const nodes = [...this.nodes.values()].map((node) => [
      node.key, node.parent, node.id, node.text, node.piece, short(node.logprob), short(node.entropy), node.by,
      node.last ?? 0, node.top && node.top.map(({ id, text, logprob }) => [id, text, short(logprob)]),
    ]);
    return { version: VERSION, leaf: this.leaf, visited: this.visited.slice(-50), nodes };
  }

  /** The tree of a JSON text; an empty one if that is none. Parents stand before their children. */
  static parse(json) {
    const tree = new Tree();
    try {
      const { version, leaf, visited, nodes } = JSON.parse(json);
      if (version !== VERSION) return tree;
      for (const [key, parent, id, text, piece, logprob, entropy, by, last, top] of nodes) {
        const tokens = top && top.map(([one, shown, value]) => ({ id: one, text: shown, logprob: value }));
        tree.nodes.set(key, { key, parent, id, text, piece, logprob, entropy, by, last, top: tokens });
        tree.children.set(key, []);
        tree.children.get(parent).push(key);
        tree.next = Math.max(tree.next, key + 1);
      }
      tree.visited = visited.filter((key) => tree.has(key));
      tree.leaf = tree.has(leaf) ? leaf : 0;
      return tree;
    } catch {
      return new Tree();
    }
  }
}

const short = (value) => (value === null ? null : Math.round(value * 1e4) / 1e4);
