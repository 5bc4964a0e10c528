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
  show({ modelId, text, ids, same, settings }) {
    const request = body(modelId, same ? text : ids, settings);
    const command = shellCommand(modelId, text, settings);
    const shell = command === null
      ? h("p", { class: "note" }, "This text has a NUL character, which no argument of a command can hold.")
      : [copyable("Shell", command), same ? null : h("p", { class: "note" },
          "The command encodes the text anew, which gives other tokens than this branch has; curl and JSON say its ids.")];
    const url = new URL("v1/completions", document.baseURI).href;
    this.dialog.replaceChildren(
      h("header", {}, h("h2", { id: "commands-title" }, "What Continue does"),
        h("button", { class: "quiet close", type: "button", "aria-label": "Close", on: { click: () => this.dialog.close() } }, "×")),
      h("section", {}, h("h3", {}, "As a shell command"), ...[shell].flat()),
      h("section", {}, h("h3", {}, "With curl"), copyable("curl", curlCommand(url, request, hasKey()))),
      h("section", {}, h("h3", {}, "As JSON"), copyable("JSON", json(request))),
    );
    this.dialog.showModal();
  }
}

function copyable(label, text) {
  const button = h("button", { type: "button", "aria-label": `Copy: ${label}` }, "Copy");
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
  return h("div", { class: "copyable" }, h("pre", { tabindex: 0, "aria-label": label }, code), button);
}
