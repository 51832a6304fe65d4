// Ten minutes as lines. Drawn at the size they are shown in, so that letters stay readable on a phone.

import { drawn } from "./elements.js";

const HEIGHT = 150;
const LEFT = 44;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const LEAST_SPAN_S = 120;

// lines: {kind, values}, values beside `ages` (seconds before now; null where there is none). scale: {from, to, ticks,
// text}. level: of a dashed line across, or null.
export function drawTimeline(parent, label, ages, lines, scale, level) {
  const width = Math.max(240, parent.clientWidth);
  const spanS = Math.max(LEAST_SPAN_S, Math.ceil(Math.max(0, ...ages) / 60) * 60);
  const x = (age) => LEFT + (1 - age / spanS) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - scale.from) / (scale.to - scale.from)) * (HEIGHT - TOP - BOTTOM);
  const nodes = scale.ticks.flatMap((tick) => [
    drawn("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
    drawn("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, scale.text(tick)),
  ]);
  for (const [part, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const text = part ? `${minutes(spanS * part)} ago` : "now";
    nodes.push(drawn("text", { class: "tick", x: x(spanS * part), y: HEIGHT - 5, "text-anchor": anchor }, text));
  }
  if (level !== null) {
    nodes.push(drawn("line", { class: "level", x1: LEFT, x2: width - RIGHT, y1: y(level), y2: y(level) }));
  }
  for (const { kind, values } of lines) {
    for (const piece of pieces(values)) {
      const places = piece.map((i) => `${x(ages[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`);
      nodes.push(drawn("path", { class: `line ${kind}`, d: `M${places.join("L")}${places.length === 1 ? "h0" : ""}` }));
    }
  }
  parent.replaceChildren(drawn("svg", { width, height: HEIGHT, role: "img", "aria-label": label }, ...nodes));
}

// A piece of a line, for the legend.
export function sample(kind) {
  return drawn("svg", { class: "sample", viewBox: "0 0 18 8", "aria-hidden": "true" },
    drawn("path", { class: kind, d: "M1 4h16" }));
}

function minutes(spanS) {
  return spanS % 60 ? `${(spanS / 60).toFixed(1)} min` : `${spanS / 60} min`;
}

// Runs of places that have a value.
function pieces(values) {
  const found = [[]];
  values.forEach((value, i) => {
    if (value === null) found.push([]);
    else found.at(-1).push(i);
  });
  return found.filter((piece) => piece.length);
}

export function shareScale(values) {
  const least = Math.min(1, ...values.filter((value) => value !== null));
  const from = [0.9, 0.5].find((floor) => least >= floor) ?? 0;
  return { from, to: 1, ticks: [from, (from + 1) / 2, 1], text: (tick) => `${Math.round(tick * 100)} %` };
}

// A round number above all values.
export function secondsScale(values) {
  const most = Math.max(0.1, ...values.filter((value) => value !== null));
  const power = 10 ** Math.floor(Math.log10(most));
  const to = [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((value) => value >= most);
  return { from: 0, to, ticks: [0, to / 2, to], text: (tick) => `${Number(tick.toPrecision(2))} s` };
}
