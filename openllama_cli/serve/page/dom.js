// Elements without markup: text becomes text nodes and never HTML, so whatever a model writes stays text.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * An element. `attributes`: `on` is an object of listeners, `style` one of custom properties (set through the CSSOM, which a
 * strict style-src allows), true is an empty attribute, null and false none.
 */
export function h(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A delegate: calls `action(element)` when something inside `root` that matches `selector` gets the event. */
export function on(root, event, selector, action) {
  root.addEventListener(event, (happened) => {
    const element = happened.target instanceof Element ? happened.target.closest(selector) : null;
    if (element && root.contains(element)) action(element, happened);
  });
}
