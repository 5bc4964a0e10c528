// Characters that cannot be seen, or that would reorder what stands around them, written so that they can be seen.

const SIGNS = { "\n": "⏎", "\t": "⇥", "\r": "␍", "\u007f": "␡" };
// C0 and C1 controls, soft hyphen, zero-width and bidirectional characters, variation and tag characters, lone surrogates.
const HIDDEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]|[\ud800-\udfff]/u;

/** A hidden character's sign: ⏎ for a newline, ␛ for an escape, U+202E for a bidirectional override. */
export function sign(character) {
  const code = character.codePointAt(0);
  if (character in SIGNS) return SIGNS[character];
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

/** The text in runs: [{text, hidden}], where hidden runs are one character long and `text` is that character. */
export function runs(text) {
  const found = [];
  for (const character of text) {
    const hidden = HIDDEN.test(character);
    const last = found.at(-1);
    if (!hidden && last && !last.hidden) last.text += character;
    else found.push({ text: character, hidden });
  }
  return found;
}

/** The text on one line, with signs for hidden characters and · for spaces at its ends: for lists and labels. */
export function oneLine(text) {
  const shown = runs(text).map((run) => (run.hidden ? sign(run.text) : run.text)).join("");
  return shown.replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

/** What stands for a token where it has no text of its own: `</s>`, or `\xe6` for a part of a character. */
export function pieceName(piece) {
  return piece.startsWith("bytes:") ? piece.slice("bytes:".length) : piece;
}

/** For screen readers: a token as words. */
export function spoken(text) {
  if (text.trim() === "" && text !== "") {
    const names = { "\n": "new line", " ": "space", "\t": "tab" };
    return [...text].map((character) => names[character] ?? sign(character)).join(", ");
  }
  return oneLine(text.trim());
}
