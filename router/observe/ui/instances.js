// A row for each instance.

import { bar, element, named, showEmpty, table } from "./elements.js";
import { NOTHING, count, milliseconds, percent, seconds } from "./numbers.js";

const HEADINGS = [
  ["Instance", "name"], ["State", "state"], ["Running", "number"], ["Waiting", "number"], ["Prefill booked", "number"],
  ["First token in", "number"], ["KV cache", "number"], ["Of the rings", "number"], ["Signals", "signals"],
];

export function showInstances(parent, instances, shares) {
  if (!instances.length) {
    showEmpty(parent, "No instance: none has joined this pool yet.");
    return;
  }
  const rows = instances.map((instance) => ({
    kind: shown(instance), cells: instance.running === undefined ? awayCells(instance) : cells(instance, shares),
  }));
  parent.replaceChildren(table("Instances", HEADINGS, rows));
}

function awayCells(instance) {
  return [who(instance), states(instance), ...HEADINGS.slice(2).map(() => NOTHING)];
}

function cells(instance, shares) {
  const kv = instance.kv_used ?? instance.kv_booked;
  const elsewhere = instance.others_running + instance.foreign;
  return [
    who(instance),
    states(instance),
    [count(instance.running), ...small(elsewhere ? `and ${count(elsewhere)} of others` : "")],
    count(instance.waiting),
    [seconds(instance.work_s), ...small(`${count(instance.prefill_tokens + instance.waiting_tokens)} tokens`)],
    [seconds(instance.ttft_s), ...small(instance.tpot_s ? `then ${milliseconds(instance.tpot_s)} a token` : "")],
    [bar(kv, kv > 0.9 ? "full" : ""), element("span", { class: "beside" }, percent(kv)), ...small(instance.kv_used === null ? "as booked" : "")],
    shares.length ? shares.map((ring) => percent(ring[instance.instance_id] ?? 0)).join(" and ") : NOTHING,
    signals(instance.signals),
  ];
}

function who(instance) {
  const role = instance.role === "both" ? "" : instance.role;
  const revision = instance.revision ? `revision ${instance.revision}` : "";
  return [named(instance.instance_id), ...small([role, revision].filter(Boolean).join(", "))];
}

function small(text) {
  return text ? [element("small", {}, text)] : [];
}

function shown(instance) {
  return instance.condition || instance.state;
}

function states(instance) {
  const notes = instance.reason ? [instance.reason] : [];
  if (instance.left_alone_s > 0) notes.push(`left alone for ${seconds(instance.left_alone_s)}`);
  if (instance.load_share < 1) notes.push(`slow start, ${percent(instance.load_share)} of its load`);
  const mark = element("span", { class: `mark ${shown(instance)}`, "aria-hidden": "true" });
  return [mark, `${shown(instance)} for ${seconds(instance.for_s)}`, ...small(notes.join("; "))];
}

function signals(given) {
  const texts = Object.entries(given).map(([name, { age_s: ageS, stale, error }]) => {
    const age = ageS === null ? "none yet" : seconds(ageS);
    const beside = [stale ? "stale" : "", error ?? ""].filter(Boolean).join(", ");
    return `${name.replaceAll("_", " ")} ${age}${beside ? ` (${beside})` : ""}`;
  });
  return texts.join(", ") || "none";
}
