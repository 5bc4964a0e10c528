// The page: joins the parts, of which none knows another, with its buttons and keys, and draws them.

import { AlternativesView } from "./alternatives_view.js";
import { Announcer } from "./announcer.js";
import * as api from "./api.js";
import { BranchesView } from "./branches_view.js";
import { CommandsView } from "./commands_view.js";
import { Controls } from "./controls.js";
import { Curve } from "./curve.js";
import { DistributionView } from "./distribution_view.js";
import { byId, h } from "./dom.js";
import { Editor } from "./editor.js";
import { ProblemView } from "./problem_view.js";
import { shade, TextView } from "./text_view.js";
import { themeButton } from "./theme.js";

const EXAMPLES = ["The largest animal is", "Q: What is the capital of Japan?\nA:", "The chemical symbol for gold is"];

class Page {
  constructor() {
    this.scheduled = false;
    this.modelId = null;
    this.announcer = new Announcer();
    this.commands = new CommandsView();
    this.problem = new ProblemView({ ready: () => this.start(), retry: () => this.editor.retry?.() });
    this.controls = new Controls(() => this.#changed());
    const { problem, announcer, controls } = this;
    this.editor = new Editor({ problem, announcer, controls, changed: (how) => this.#changed(how) });
    const choose = (node, token) => this.editor.choose(node, token);
    this.distribution = new DistributionView(choose);
    this.alternatives = new AlternativesView({ choose, goOn: (node) => this.editor.continueAfter(node), closed: () => (this.editor.looking = false) });
    this.branches = new BranchesView({ go: (key) => this.editor.go(key), remove: (key) => this.editor.remove(key) });
    this.text = new TextView({
      point: (node, element) => this.#look(node, element),
      leave: () => this.alternatives.close(),
      enter: () => this.alternatives.enter(),
    });
    this.curve = new Curve((node) => this.#look(node, this.text.element(node)));
    this.#buttons();
    this.#keys();
  }

  /** Asks which model is served, and shows the text that the browser kept for it. */
  async start() {
    try {
      const model = await api.model();
      if (model.id !== this.modelId) this.editor.open(model);
      this.modelId = model.id;
      const { precision, device } = model.olc ?? {};
      byId("model").textContent = [model.id, precision, device].filter(Boolean).join(" · ");
      this.announcer.say("The server is ready.");
    } catch (error) {
      this.problem.show(error);
    }
    this.#changed();
  }

  #buttons() {
    const { editor } = this;
    const click = (id, action) => byId(id).addEventListener("click", action);
    click("go", () => editor.submit());
    click("stop", () => editor.stop());
    click("edit", () => editor.edit());
    click("back", () => editor.back());
    click("fresh", () => editor.fresh());
    click("share", () => editor.request().then((request) => this.commands.show(request), (error) => this.problem.show(error)));
    editor.draft.addEventListener("input", () => this.#changed());
    const example = (text) => () => {
      editor.draft.value = text;
      editor.submit();
    };
    byId("examples").append(h("p", {}, "Or begin with"), ...EXAMPLES.map((text) => h("button", { type: "button", on: { click: example(text) } }, text)));
    const steps = [1, 0.5, 0.1, 0.01, 0.001];
    byId("legend").append(h("figcaption", {}, "Probability"),
      ...steps.map((p) => h("span", { class: "swatch", style: { "--s": shade(Math.log(p)) } }, `${p * 100} %`)),
      h("span", { class: "you" }, "your words"), h("span", { class: "model" }, "the model’s"),
      h("span", { class: "token forked" }, h("span", { class: "shade" }, "has branches")));
  }

  #keys() {
    document.addEventListener("keydown", (event) => {
      if (byId("commands").open) return;
      if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
        event.preventDefault();
        this.editor.submit();
      } else if (event.key === "Escape" && this.alternatives.open) this.alternatives.close({ focus: true });
      else if (event.key === "Escape") this.editor.stop();
    });
    document.addEventListener("pointerdown", ({ target }) => {
      if (!target.closest("#alternatives, .token, #curve")) this.alternatives.close();
    });
  }

  /** A token is looked at: its distribution is shown, and beside it what else could stand there. */
  #look(node, element) {
    this.editor.look(node);
    this.#draw();
    if (element) this.alternatives.show(node, element, this.editor.tree.siblings(node.key));
  }

  /** Draws once a frame, however much has changed, or now. */
  #changed({ now = false } = {}) {
    if (now) return this.#draw();
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const { tree, node, writing, running } = this.editor;
    const path = tree.path();
    this.#drawButtons(path);
    if (!writing) {
      this.text.update(path, (one) => tree.siblings(one.key).length > 1);
      this.text.mark(node);
    }
    const open = this.alternatives.open && (writing || !this.text.element(this.alternatives.node));
    if (open) this.alternatives.close();
    this.curve.update(writing ? [] : path);
    this.curve.mark(node);
    this.distribution.show(node, this.controls.settings, node ? tree.siblings(node.key) : []);
    if (!running) this.branches.update(tree);
  }

  #drawButtons(path) {
    const { tree, session, writing, running, draft } = this.editor;
    const show = (id, shown) => (byId(id).hidden = !shown);
    const focused = document.activeElement;
    byId("status").textContent = this.editor.status;
    show("text", !writing);
    show("draft", writing);
    show("examples", writing && draft.value === "" && path.length === 0 && session);
    show("legend", !writing && path.length > 1);
    show("stop", running);
    show("go", !running);
    show("edit", path.length > 0);
    // Continue and Stop take turns in one place, with the focus.
    if (focused === byId("go") && running) byId("stop").focus();
    if (focused === byId("stop") && !running) byId("go").focus();
    if (focused === draft && !writing) byId(running ? "stop" : "go").focus();
    byId("text").setAttribute("aria-busy", String(running));
    byId("edit").textContent = writing ? "Cancel" : "Edit";
    draft.readOnly = running;
    for (const id of ["go", "fresh"]) byId(id).disabled = !session;
    for (const id of ["edit", "share"]) byId(id).disabled = running || !session;
    byId("back").disabled = !tree.visited.some((key) => key !== tree.leaf && tree.has(key));
  }
}

themeButton();
new Page().start();
