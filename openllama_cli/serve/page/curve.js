// Surprisal along the text, as a curve.

import { bits } from "./distribution.js";
import { byId, h, svg } from "./dom.js";
import { oneLine } from "./visible.js";

const HEIGHT = 132;
const MARGIN = { top: 22, right: 6, bottom: 6, left: 30 };
const LABELS = 3; // How many of the greatest surprises are named.
const WIDE = 64; // Pixels that a name needs for itself.

/** Points of a curve: {x, y} for values along a width, the first and last half a step from its ends. */
export function points(values, { width, height, most }) {
  const step = width / Math.max(1, values.length);
  return values.map((value, place) => ({ x: (place + 0.5) * step, y: height - (value / most) * height }));
}

/** The greatest values that are far enough apart to be named: places, the greatest first. */
export function peaks(values, at, { count = LABELS, apart = WIDE } = {}) {
  const found = [];
  for (const place of values.map((_, one) => one).sort((a, b) => values[b] - values[a])) {
    if (found.length === count || values[place] < 2) break;
    if (found.every((other) => Math.abs(at[other].x - at[place].x) >= apart)) found.push(place);
  }
  return found;
}

export class Curve {
  /** point(node): a place of the curve is clicked. */
  constructor(point) {
    this.root = byId("curve");
    this.point = point;
    this.nodes = [];
    new ResizeObserver(() => this.#draw()).observe(this.root);
    this.root.addEventListener("click", (event) => {
      const node = this.#at(event);
      if (node) this.point(node);
    });
  }

  update(path) {
    this.nodes = path.filter((node) => node.logprob !== null);
    this.root.hidden = this.nodes.length < 2;
    this.#draw();
  }

  mark(node) {
    this.marked = node;
    this.#mark();
  }

  #at(event) {
    const { left } = this.root.getBoundingClientRect();
    const width = this.width - MARGIN.left - MARGIN.right;
    const place = Math.floor(((event.clientX - left - MARGIN.left) / width) * this.nodes.length);
    return this.nodes[Math.min(this.nodes.length - 1, Math.max(0, place))];
  }

  #draw() {
    this.width = this.root.clientWidth;
    if (this.root.hidden || this.width === 0) return;
    const values = this.nodes.map((node) => bits(node.logprob));
    const most = Math.max(6, ...values);
    const size = { width: this.width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom, most };
    this.at = points(values, size);
    const floor = size.height;
    const line = this.at.map(({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`).join(" L ");
    const step = [1, 2, 5, 10, 20, 50].find((one) => most / one <= 4.5) ?? 100;
    const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, place) => place * step);
    const written = this.nodes.findIndex((node) => node.by !== "you");
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const says = `Surprisal of ${values.length} tokens: ${mean.toFixed(1)} bits on average, ${Math.max(...values).toFixed(1)} at most`;
    this.marker = svg("g", { class: "marker" });
    const picture = svg("svg", { width: this.width, height: HEIGHT, viewBox: `0 0 ${this.width} ${HEIGHT}`, role: "img", "aria-label": says },
      svg("g", { transform: `translate(${MARGIN.left} ${MARGIN.top})` },
        ticks.map((tick) => {
          const y = floor - (tick / most) * floor;
          return svg("g", { class: "tick" }, svg("line", { x2: size.width, y1: y, y2: y }), svg("text", { x: -8, y: y + 4 }, String(tick)));
        }),
        written > 0
          ? svg("line", { class: "boundary", x1: (written * size.width) / values.length, x2: (written * size.width) / values.length, y2: floor }) : null,
        svg("path", { class: "area", d: `M ${this.at[0].x} ${floor} L ${line} L ${this.at.at(-1).x} ${floor} Z` }),
        svg("path", { class: "line", d: `M ${line}` }),
        peaks(values, this.at).map((place) => this.#label(place, size.width)),
        this.marker));
    const caption = h("figcaption", {}, "Surprisal along the text, in bits. ",
      h("span", { class: "mean" }, `${mean.toFixed(2)} bits a token, a perplexity of ${(2 ** mean).toFixed(1)}`));
    this.root.replaceChildren(caption, picture);
    this.#mark();
  }

  #label(place, width) {
    const { x, y } = this.at[place];
    const anchor = x < 40 ? "start" : x > width - 40 ? "end" : "middle";
    const name = oneLine(this.nodes[place].text.trim() || this.nodes[place].piece);
    return svg("text", { class: "peak", x, y: y - 7, "text-anchor": anchor }, name.length > 12 ? `${name.slice(0, 11)}…` : name);
  }

  #mark() {
    const place = this.nodes.findIndex((node) => node.key === this.marked?.key);
    if (!this.marker || !this.at) return;
    if (place < 0 || !this.at[place]) return this.marker.replaceChildren();
    const { x, y } = this.at[place];
    this.marker.replaceChildren(svg("line", { x1: x, x2: x, y1: 0, y2: HEIGHT - MARGIN.top - MARGIN.bottom }), svg("circle", { cx: x, cy: y, r: 4.5 }));
  }
}
