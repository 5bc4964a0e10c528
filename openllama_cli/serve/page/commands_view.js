// What Continue would do, to take along: a shell command, curl, and JSON, each to copy.

import { hasKey } from "./api.js";
import { body, curlCommand, json, shellCommand } from "./commands.js";
import { byId, h } from "./dom.js";

export class CommandsView {
  constructor() {
    this.dialog = byId("commands");
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** ids: of the branch that is shown. same: whether its text, encoded anew, gives these ids. */
  show({ modelId, precision, text, ids, same, settings }) {
    const request = body(modelId, same ? text : ids, settings);
    const command = shellCommand(modelId, text, settings, precision);
    const note = (text) => h("p", { class: "note" }, text);
    const shell = command === null
      ? [h("h3", {}, "As a shell command"), note("This text has a NUL character, which no argument of a command can hold.")]
      : [...copyable("As a shell command", command),
        ...(same ? [] : [note("It encodes the text anew, which gives other tokens than this branch has; curl and JSON give its ids.")])];
    const url = new URL("v1/completions", document.baseURI).href;
    this.dialog.replaceChildren(
      h("header", {}, h("h2", { id: "commands-title" }, "What Continue does"),
        h("button", { class: "quiet close", type: "button", "aria-label": "Close", on: { click: () => this.dialog.close() } }, "×")),
      ...shell,
      ...copyable("With curl", curlCommand(url, request, hasKey())),
      ...copyable("As JSON", json(request)),
    );
    this.dialog.showModal();
  }
}

function copyable(title, text) {
  const button = h("button", { type: "button", "aria-label": `Copy ${title.toLowerCase()}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Only secure origins (https, localhost) may copy: the text is selected instead.
      getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  const code = h("code", {}, text);
  return [h("div", { class: "title" }, h("h3", {}, title), button), h("pre", { tabindex: 0, "aria-label": title }, code)];
}
