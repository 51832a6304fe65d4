// Elements by hand. Data gets in as text and attributes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

// attributes: by name; children: elements and texts.
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function say(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text; // or screen readers would say it each second
}

export function showEmpty(parent, text) {
  parent.replaceChildren(element("p", { class: "empty" }, text));
}

// headings: of the columns, [text, class]. rows: lists of cells; a cell is a text or a list of nodes. Rebuilt each time:
// nothing in it takes the focus.
export function table(label, headings, rows) {
  const head = headings.map(([text, kind]) => element("th", { scope: "col", class: kind }, text));
  const body = rows.map(({ cells, kind = "" }) =>
    element("tr", { class: kind }, ...cells.map((cell, i) => {
      const [text, cellKind] = headings[i];
      const attributes = { class: cellKind, "data-label": text };
      return element(i ? "td" : "th", i ? attributes : { ...attributes, scope: "row" }, ...[cell].flat());
    })));
  return element("table", { "aria-label": label },
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

// A bar from 0 to 1, for what is also said as a number.
export function bar(share, kind = "") {
  const width = Math.max(0, Math.min(1, share)) * 100;
  return drawn("svg", { class: `bar ${kind}`, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { class: "track", width: 100, height: 8 }), drawn("rect", { class: "fill", width, height: 8 }));
}

// Pointed at, or reached by keys.
export function onChoice(node, begin, end) {
  for (const name of ["focus", "pointerenter"]) node.addEventListener(name, begin);
  for (const name of ["blur", "pointerleave"]) node.addEventListener(name, end);
}

const COLOURS = 12;
const colourOf = new Map();

// An instance keeps its colour while the page is open, whoever comes or goes.
export function colour(instanceId) {
  if (!colourOf.has(instanceId)) colourOf.set(instanceId, `colour-${colourOf.size % COLOURS}`);
  return colourOf.get(instanceId);
}

export function named(instanceId) {
  return element("span", { class: "instance" },
    element("span", { class: `swatch ${colour(instanceId)}`, "aria-hidden": "true" }), instanceId);
}
