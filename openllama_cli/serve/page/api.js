// The server: olc's, or another that speaks its completions. Requests, answers as they stream, and what can go wrong.

/** What went wrong. kind: "dead", "loading", "busy", "key", "refused", or "broken" for an answer that stopped half-way. */
export class ServerError extends Error {
  constructor(kind, message, remedy = "") {
    super(message);
    this.kind = kind;
    this.remedy = remedy;
  }
}

let key = sessionStorage.getItem("olc-key") ?? "";

/** Keeps the server's API key for this tab. */
export function useKey(text) {
  key = text.trim();
  sessionStorage.setItem("olc-key", key);
}

export const hasKey = () => key !== "";

async function request(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
  let response;
  try {
    response = await fetch(path, { ...options, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("dead", "The server does not answer.", "Start it again with olc serve; this page notices when it is back. Your text is kept in this browser.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // A proxy's page, or nothing: the status says it.
  }
  const message = sentence(error.cause ?? error.message ?? `The server answered with status ${response.status}`);
  const remedy = sentence(error.remedy ?? "");
  if (error.code === "loading") return new ServerError("loading", "The model is loading.", "This page goes on when it is ready.");
  if (response.status === 401) return new ServerError("key", hasKey() ? "The server does not accept this key." : "This server needs a key.");
  if (response.status === 429 || response.status === 503) {
    const seconds = response.headers.get("Retry-After");
    return new ServerError("busy", message, remedy || (seconds ? `Try again in ${seconds} s.` : "Try again in a moment."));
  }
  return new ServerError("refused", message, remedy);
}

/** olc's causes and remedies begin small and end without a period, as lines of a terminal. */
function sentence(text) {
  const begun = String(text).replace(/^[a-z](?!lc )/, (letter) => letter.toUpperCase());
  return /[\p{L}\p{N})"'`]$/u.test(begun) ? `${begun}.` : begun;
}

/** Resolves when the server is ready; otherwise throws a ServerError. */
export async function health() {
  await request("health");
}

/** The model that is served: {id, max_model_len, olc}. */
export async function model() {
  const { data } = await (await request("v1/models")).json();
  return data[0];
}

/** The ids of a text, with BOS if the model has one. */
export async function tokenize(text) {
  return (await (await request("tokenize", { prompt: text, add_special_tokens: true })).json()).tokens;
}

/** Streams a completion: yields its chunks. Ends early, without an error, when `signal` is aborted. */
export async function* complete(body, signal) {
  let done = false;
  try {
    const response = await request("v1/completions", { ...body, stream: true }, signal);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        done = true;
        continue;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) {
        throw new ServerError("refused", sentence(chunk.error.cause ?? chunk.error.message), sentence(chunk.error.remedy ?? ""));
      }
      yield chunk;
    }
  } catch (error) {
    if (signal?.aborted) return;
    if (error instanceof ServerError) throw error;
    throw new ServerError("broken", "The connection broke off before the text was complete.", "What came is kept. Continue goes on from there.");
  }
  if (!done && !signal?.aborted) {
    throw new ServerError("broken", "The server ended the answer half-way.", "What came is kept. Continue goes on from there.");
  }
}

/** The data of server-sent events in a stream of bytes. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      const parts = buffer.split(/\r?\n\r?\n/);
      buffer = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length > 0) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
