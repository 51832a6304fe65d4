// Summary, choices, moves, gateways.

import { bar, element, named, showEmpty, table } from "./elements.js";
import { clock, count, milliseconds, percent, percentKept, seconds } from "./numbers.js";

const REASONS = {
  warm: "held more of the prompt, and was soon enough",
  switched: "waiting for the warm one would have cost more",
  balanced: "none held more; this was the soonest",
  session: "as good as the best, and the session was there",
  only_one: "no other instance was left",
  home: "it keeps what the request goes on from",
  moved: "moved off an instance with too much to do",
  taken: "taken by an instance with nothing else to do",
  redirected: "the proxy could not reach the one that was chosen",
  policy: "so the policy chose",
};

export function showSummary(parent, live) {
  const { timeline, instances } = live;
  const ready = instances.filter((instance) => instance.state === "ready").length;
  const facts = [
    ["Within the objective", percentKept(timeline.kept, timeline.missed), `first token in ${seconds(live.ttft_slo_s)}`],
    ...(live.tpot_slo_s || timeline.tpot_kept + timeline.tpot_missed
      ? [["Tokens at their pace", percentKept(timeline.tpot_kept, timeline.tpot_missed), pace(live.tpot_slo_s)]] : []),
    ["First token, median", seconds(timeline.p50_s), "of streams"],
    ["First token, P90", seconds(timeline.p90_s), "of streams"],
    ["In flight", count(live.in_flight), live.held ? `${count(live.held)} wait for an instance` : "requests, here"],
    ["Ready", `${ready} of ${instances.length}`, "instances"],
  ];
  parent.replaceChildren(...facts.map(([name, value, unit]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, element("small", {}, unit)))));
}

// Requests may have objectives of their own where the pool has none.
function pace(objectiveS) {
  return objectiveS ? `${milliseconds(objectiveS)} a token` : "of streams with an objective";
}

export function showChoices(parent, choices) {
  const total = Object.values(choices).reduce((sum, number) => sum + number, 0);
  if (!total) {
    showEmpty(parent, "No request was sent to an instance in this time.");
    return;
  }
  const found = Object.entries(choices).filter(([, number]) => number).sort((a, b) => b[1] - a[1]);
  const rows = found.map(([reason, number]) => ({
    cells: [
      [reason.replaceAll("_", " "), element("small", {}, REASONS[reason] ?? "")],
      [bar(number / total)], count(number), percent(number / total),
    ],
  }));
  const headings = [["Reason", "name"], ["Share, drawn", "drawn"], ["Requests", "number"], ["Share", "number"]];
  parent.replaceChildren(table("Choices by reason", headings, rows));
}

export function showMoves(parent, moves) {
  if (!moves.length) {
    parent.removeAttribute("tabindex");
    showEmpty(parent, "No request has moved yet: each ran where it was placed first.");
    return;
  }
  const rows = moves.map((move) => ({
    cells: [
      clock(move.at), [element("code", {}, move.request_id)], [named(move.from), " → ", named(move.to)],
      move.why.replaceAll("_", " "), seconds(move.queued_s),
    ],
  }));
  const headings = [["At", "time"], ["Request", "request"], ["From and to", "name"], ["Why", "why"], ["Waited", "number"]];
  const scrolled = parent.scrollTop;
  parent.replaceChildren(table("The last moves, newest first", headings, rows));
  parent.scrollTop = scrolled;
  parent.setAttribute("tabindex", "0"); // it scrolls, also by keys
}

export function showGateways(parent, live) {
  if (live.gateways.length < 2) {
    showEmpty(parent, `${live.gateway_id} is the only one.`);
    return;
  }
  const rows = live.gateways.map((gateway) => {
    const own = gateway.gateway_id === live.gateway_id;
    const page = /^[\w.:[\]-]+:\d+$/.test(gateway.admin) ? `http://${gateway.admin}/ui` : null;
    const link = own || page === null ? gateway.admin : [element("a", { href: page, rel: "noreferrer" }, page)];
    const where = gateway.leaving ? "lets its answers end, another serves in its place" : link;
    return { cells: [gateway.gateway_id + (own ? " (this one)" : ""), where, seconds(gateway.age_s)] };
  });
  parent.replaceChildren(table("Gateways", [["Gateway", "name"], ["Its page", "where"], ["Last report", "number"]], rows));
}
