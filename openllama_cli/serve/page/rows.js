// Tokens of a position as rows: each with its probability as a bar, and what sampling leaves of it, step by step if it is known.

import { percent } from "./distribution.js";
import { h } from "./dom.js";
import { oneLine, pieceName, spoken } from "./visible.js";

/**
 * A list of rows. groups: of `collected`, in the order shown. compare: show also what sampling makes of them.
 * chosen: the id that stands in the text. explored: ids that are branches already.
 */
export function rows(groups, { chosen, explored, compare }) {
  const list = h("ul", { class: compare ? "rows compare" : "rows" });
  list.append(...groups.map((group) => h("li", {}, row(group, { chosen, explored, compare }))));
  if (compare) update(list, groups);
  return list;
}

function row({ token, p, steps = [] }, { chosen, explored, compare }) {
  const share = percent(p);
  const bars = { "--p": p, "--q": 0 };
  const figures = steps.map((value) => h("span", { class: "value" }, value === null ? "" : percent(value)));
  const sampled = compare ? [...figures, h("span", { class: "sampled" })] : [];
  if (token === null) {
    return h("div", { class: "row rest", style: bars }, h("span", { class: "name" }, "all others"), h("span", { class: "value" }, share), ...sampled);
  }
  const here = token.id === chosen;
  const state = here ? ", in the text" : explored.has(token.id) ? ", a branch already" : "";
  return h("button", { class: `row${here ? " here" : ""}${explored.has(token.id) ? " explored" : ""}`, type: "button", style: bars,
    "data-id": token.id, "aria-label": `${spoken(pieceName(token.text))}, ${share}${state}` },
    h("span", { class: "name" }, oneLine(pieceName(token.text))), h("span", { class: "value" }, share), ...sampled);
}

/** Shows in the rows of a list what sampling makes of its groups now. */
export function update(list, groups) {
  [...list.children].forEach((item, place) => {
    const element = item.firstElementChild;
    const { q, kept, cut } = groups[place];
    element.style.setProperty("--q", q);
    element.classList.toggle("cut", kept === 0);
    element.classList.toggle("slight", groups[place].p < 0.003); // A line of less than a pixel is none.
    element.title = cut !== null && kept > 0 ? `partly cut by ${cut}` : "";
    element.querySelector(".sampled").textContent = kept === null ? "" : cut === null || kept > 0 ? percent(q) : cut === "never" ? cut : `cut: ${cut}`;
  });
}
