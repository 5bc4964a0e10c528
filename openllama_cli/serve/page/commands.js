// What Continue would do, as a shell command and as a request: quoted so that it can be pasted.

import { runs } from "./visible.js";

const PLAIN = /^[A-Za-z0-9_./][A-Za-z0-9_./:,+=@%-]*$/;

/**
 * A word of a POSIX shell. Newlines and tabs stand in single quotes as they are. With other characters that cannot be seen it is
 * $'…' (bash, zsh, ksh, POSIX 2024), since a terminal would act on them when they are pasted. Returns null for a text that no
 * argument can hold: one with NUL.
 */
export function quote(text) {
  if (text.includes("\0")) return null;
  if (PLAIN.test(text)) return text;
  const visible = (run) => !run.hidden || run.text === "\n" || run.text === "\t";
  if (runs(text).every(visible)) return `'${text.replaceAll("'", "'\\''")}'`;
  const written = runs(text).map((run) => (run.hidden ? escaped(run.text) : run.text.replace(/[\\'!]/g, octal)));
  return `$'${written.join("")}'`;
}

function escaped(character) {
  if (character === "\n") return "\\n";
  if (character === "\t") return "\\t";
  return octal(character);
}

/** Octal has three digits in every shell; how many digits \x and \u take differs. */
function octal(character) {
  return [...new TextEncoder().encode(character)].map((byte) => "\\" + byte.toString(8).padStart(3, "0")).join("");
}

/**
 * The body of a completions request. settings: see controls.js. prompt: a text or ids.
 * Samplers that are off are left out, and so is the seed if none is set.
 */
export function body(model, prompt, settings) {
  const { temperature, topP, topK, minP, maxTokens, seed, branches, stop } = settings;
  const request = { model, prompt, max_tokens: maxTokens, temperature };
  if (temperature > 0) {
    if (topP < 1) request.top_p = topP;
    if (topK > 0) request.top_k = topK;
    if (minP > 0) request.min_p = minP;
    if (seed !== null) request.seed = seed;
    if (branches > 1) request.n = branches;
  }
  if (stop.length > 0) request.stop = stop;
  return request;
}

/** The `olc complete` command, or null where none can say it. precision: how the server holds the weights, if it says so. */
export function shellCommand(model, text, settings, precision = null) {
  const { temperature, topP, topK, minP, maxTokens, seed, branches, stop } = settings;
  const words = ["olc", "complete", "-m", quote(model)];
  if (precision !== null) words.push(precision.startsWith("int") ? "--quantize" : "--dtype", precision);
  words.push("-n", maxTokens);
  if (temperature > 0) {
    words.push("--temperature", temperature);
    if (topP < 1) words.push("--top-p", topP);
    if (topK > 0) words.push("--top-k", topK);
    if (minP > 0) words.push("--min-p", minP);
    if (seed !== null) words.push("--seed", seed);
    if (branches > 1) words.push("--num-samples", branches);
  }
  for (const one of stop) words.push("--stop", quote(one));
  if (words.includes(null) || quote(text) === null) return null;
  // A lone dash would mean stdin.
  if (text === "-") return `printf %s - | ${words.join(" ")}`;
  return `${words.join(" ")} -- ${quote(text)}`;
}

/** The same request with curl. */
export function curlCommand(url, request, key) {
  const header = key ? ` -H "Authorization: Bearer $OPENAI_API_KEY"` : "";
  return `curl ${quote(url)} -H 'Content-Type: application/json'${header} -d ${quote(json(request))}`;
}

/** JSON for people: one member a line, but ids and stops on one line. */
export function json(request) {
  const lines = Object.entries(request).map(([name, value]) => {
    const text = Array.isArray(value) ? `[${value.map((one) => JSON.stringify(one)).join(", ")}]` : JSON.stringify(value);
    return `  ${JSON.stringify(name)}: ${visibleJson(text)}`;
  });
  return `{\n${lines.join(",\n")}\n}`;
}

/** JSON may hold U+202E and the like as they are; escaped they cannot reorder the line. */
function visibleJson(text) {
  const escape = (unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0");
  return runs(text).map((run) => (run.hidden ? run.text.split("").map(escape).join("") : run.text)).join("");
}
