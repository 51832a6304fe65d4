// The two rings, drawn: arcs by owner, and the hot prefixes at their place on each.

import { colour, drawn, element, named, onChoice } from "./elements.js";

const SIZE = 440;
const CENTRE = SIZE / 2;
const BANDS = [[190, 210], [112, 132]]; // radii of the first ring, and of the second
const BADGE = 10;
const STEP = 0.02; // turns, of the line between a prefix's two places

function point(turn, radius) {
  const angle = turn * 2 * Math.PI;
  return [CENTRE + radius * Math.sin(angle), CENTRE - radius * Math.cos(angle)];
}

function at(turn, radius) {
  return point(turn, radius).map((x) => x.toFixed(1)).join(" ");
}

// One path for all arcs of each owner.
function arcs({ owners, runs }, [inner, outer]) {
  const slots = runs.reduce((sum, [length]) => sum + length, 0);
  const paths = owners.map(() => []);
  let slot = 0;
  for (const [length, owner] of runs) {
    const from = slot / slots;
    slot += length;
    const middle = from + length / slots / 2; // an arc of a full turn has no direction; two halves have
    const to = Math.min(slot / slots, from + 0.99999);
    paths[owner].push(
      `M${at(from, outer)}A${outer} ${outer} 0 0 1 ${at(middle, outer)}A${outer} ${outer} 0 0 1 ${at(to, outer)}` +
      `L${at(to, inner)}A${inner} ${inner} 0 0 0 ${at(middle, inner)}A${inner} ${inner} 0 0 0 ${at(from, inner)}Z`);
  }
  return owners.map((owner, i) =>
    drawn("path", { class: `arc ${colour(owner)}`, "data-instance": owner, d: paths[i].join("") }, title(owner)));
}

function title(text) {
  return drawn("title", {}, text);
}

// From the one place to the other in the room between the rings, the short way round.
function link([first, second]) {
  const way = ((second - first + 1.5) % 1) - 0.5;
  const steps = Math.max(2, Math.ceil(Math.abs(way) / STEP));
  const [from, to] = [BANDS[0][0], BANDS[1][1]];
  const places = Array.from({ length: steps + 1 }, (_, i) => {
    const part = i / steps;
    const eased = part * part * (3 - 2 * part);
    return at(first + way * part, from + (to - from) * eased);
  });
  return `M${places.join("L")}`;
}

function badge(turn, band, number) {
  const [x, y] = point(turn, (band[0] + band[1]) / 2);
  return drawn("g", { class: "badge", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
    drawn("circle", { r: BADGE }), drawn("text", { y: 4 }, String(number)));
}

function prefixMarks(prefix, number) {
  const marks = prefix.turns.map((turn, ring) => badge(turn, BANDS[ring], number));
  if (prefix.turns.length > 1) marks.unshift(drawn("path", { class: "link", d: link(prefix.turns) }));
  return drawn("g", { class: "prefix", "data-key": prefix.key }, title(`prefix ${prefix.key}`), ...marks);
}

// Kept between looks, since they change with the membership only.
let arcsLayer = null;

export function drawRings(parent, rings, prefixes, instances) {
  if (rings !== undefined || arcsLayer === null) {
    arcsLayer = drawn("g", {}, ...(rings ?? []).flatMap((ring, i) => arcs(ring, BANDS[i])));
  }
  const marks = drawn("g", {}, ...prefixes.map((prefix, i) => prefixMarks(prefix, i + 1)));
  const words = drawn("g", { class: "middle" },
    drawn("text", { x: CENTRE, y: CENTRE - 6 }, instances === 1 ? "1 instance" : `${instances} instances`),
    drawn("text", { x: CENTRE, y: CENTRE + 14, class: "small" }, "on the rings"));
  const label = `The rings with ${instances} instances and the places of ${prefixes.length} hot prefixes; ` +
    "the tables beside say the same";
  parent.replaceChildren(
    drawn("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": label }, arcsLayer, marks, words));
}

// A button for each instance, which lights its arcs.
export function showLegend(parent, instanceIds, choose) {
  const names = instanceIds.join("\n");
  if (parent.dataset.names === names) return;
  parent.dataset.names = names;
  parent.replaceChildren(...instanceIds.map((instanceId) => {
    const button = element("button", { type: "button" }, named(instanceId));
    onChoice(button, () => choose([instanceId], null), () => choose(null, null));
    return button;
  }));
}

// instanceIds, key: what is lit, all else being dimmed; null for no choice.
export function highlight(parent, instanceIds, key) {
  parent.classList.toggle("chosen", instanceIds !== null);
  for (const arc of parent.querySelectorAll(".arc")) {
    arc.classList.toggle("lit", instanceIds !== null && instanceIds.includes(arc.dataset.instance));
  }
  for (const mark of parent.querySelectorAll(".prefix")) mark.classList.toggle("lit", mark.dataset.key === key);
}
