// The hottest prefixes: buttons, since choosing one lights its candidates on the rings.

import { element, named, onChoice, showEmpty } from "./elements.js";
import { percent, several } from "./numbers.js";

let rows = new Map(); // by key, kept so that the one that has the focus keeps it

export function showPrefixes(parent, prefixes, recentRequests, choose) {
  if (!prefixes.length) {
    rows = new Map();
    showEmpty(parent, recentRequests ? "No prefix is shared by several of the last requests." : "No request yet.");
    return;
  }
  const before = rows;
  rows = new Map(prefixes.map((prefix) => [prefix.key, before.get(prefix.key) ?? makeRow(prefix.key, choose)]));
  const list = parent.firstChild?.tagName === "OL" ? parent.firstChild : element("ol", { class: "prefixes" });
  if (list.parentNode !== parent) parent.replaceChildren(list);
  prefixes.forEach((prefix, place) => {
    const row = rows.get(prefix.key);
    fill(row, prefix, place + 1, recentRequests);
    if (list.children[place] !== row.item) list.insertBefore(row.item, list.children[place] ?? null);
  });
  while (list.children.length > prefixes.length) list.lastChild.remove();
}

function makeRow(key, choose) {
  const parts = ["number", "key", "share", "candidates", "ran"].map((kind) => element("span", { class: kind }));
  const button = element("button", { type: "button" }, ...parts);
  const row = { item: element("li", {}, button), parts, candidates: [] };
  onChoice(button, () => choose(row.candidates, key), () => choose(null, null));
  return row;
}

function fill(row, prefix, number, recentRequests) {
  const [numberPart, keyPart, sharePart, candidatesPart, ranPart] = row.parts;
  row.candidates = prefix.candidates;
  numberPart.textContent = String(number);
  keyPart.textContent = prefix.key;
  keyPart.title = `a hash of the first ${several(prefix.depth, "block", "blocks")} of its prompts`;
  sharePart.textContent =
    `${several(prefix.requests, "request", "requests")}, ${percent(prefix.requests / recentRequests)}`;
  candidatesPart.replaceChildren(...prefix.candidates.flatMap((id, i) => (i ? [" or ", named(id)] : [named(id)])));
  const ran = Object.entries(prefix.ran_on).map(([id, requests]) => `${id} ${requests}`);
  ranPart.textContent = `ran on ${ran.join(", ")}`;
}
