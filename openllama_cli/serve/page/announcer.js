// For screen readers: a streaming text sentence by sentence, not token by token.

import { byId } from "./dom.js";

export class Announcer {
  constructor() {
    this.root = byId("live");
    this.pending = "";
  }

  /** Says a sentence at once. */
  say(text) {
    this.root.textContent = text;
  }

  /** Adds streamed text; says what is complete of it. */
  add(text) {
    this.pending += text;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => this.pending.lastIndexOf(mark)));
    if (end < 0) return;
    this.say(this.pending.slice(0, end + 1).trim());
    this.pending = this.pending.slice(end + 1);
  }

  /** Says the rest, and how it ended. */
  finish(how) {
    this.say(`${this.pending.trim()} ${how}`.trim());
    this.pending = "";
  }
}
