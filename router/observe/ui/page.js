// Asks the gateway once a second while the page is seen, and shows what it says.

import { byId, element, say, showEmpty, colour } from "./elements.js";
import { percentKept, seconds, several } from "./numbers.js";
import { drawRings, highlight, showLegend } from "./rings.js";
import { showPrefixes } from "./prefixes.js";
import { showInstances } from "./instances.js";
import { eventsHint, showEvents } from "./events.js";
import { drawTimeline, sample, secondsScale, shareScale } from "./timelines.js";
import { showChoices, showGateways, showMoves, showSummary } from "./lists.js";

const ASK_EACH_MS = 1000;
const GIVE_UP_MS = 5000;
const TOKEN = "dualmap-admin-token"; // in this tab's storage, until it is closed

let pool = null; // the first one, until another is chosen
let ringsVersion = "";
let eventsVersion = "";
let shares = []; // of each ring, by instance
let heardAt = null;
let asking = false;
let timer = 0;
let chosen = [null, null]; // instances and prefix that are lit

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden || !byId("token-form").hidden) return;
  asking = true;
  try {
    await hear();
  } catch (error) {
    lose(error);
  } finally {
    asking = false;
    timer = setTimeout(ask, ASK_EACH_MS);
  }
}

async function hear() {
  const query = new URLSearchParams({ rings: ringsVersion, events: eventsVersion, ...(pool === null ? {} : { pool }) });
  const token = sessionStorage.getItem(TOKEN);
  const asked = pool;
  const answer = await fetch(`/admin/live?${query}`, {
    cache: "no-store",
    credentials: "omit",
    headers: token === null ? {} : { authorization: `Bearer ${token}` },
    signal: AbortSignal.timeout(GIVE_UP_MS),
  });
  if (answer.status === 401) {
    askForToken(token !== null);
    return;
  }
  if (answer.status === 400) pool = null; // the gateway has come back with other pools
  if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
  const live = await answer.json();
  if (asked !== pool) return; // another pool was chosen meanwhile
  heardAt = Date.now();
  byId("fleet").hidden = false; // first, since what is hidden has no width to draw in
  show(live);
  document.body.classList.remove("away");
  say("connection", "Live, each second");
}

function lose(error) {
  ringsVersion = eventsVersion = ""; // another gateway may answer next
  document.body.classList.add("away");
  const since = heardAt === null ? "" : ` What is shown is from ${new Date(heardAt).toLocaleTimeString("en-GB")}.`;
  const why = error.message.startsWith("the gateway") ? error.message : "the gateway does not answer";
  say("connection", `No news: ${why}. Trying again each second.${since}`);
}

function askForToken(refused) {
  sessionStorage.removeItem(TOKEN);
  byId("token-form").hidden = false;
  byId("fleet").hidden = true;
  say("connection", refused ? "The token was refused." : "The admin token is needed.");
  byId("token").focus();
}

function show(live) {
  live.instances.map((instance) => instance.instance_id).sort().forEach(colour);
  say("gateway", `${live.gateway_id}, policy ${live.policy}, up ${seconds(live.uptime_s)}`);
  document.title = `${live.gateway_id} – DualMap`;
  showPools(live);
  showSummary(byId("summary"), live);
  showRings(live);
  showTimelines(live);
  showInstances(byId("instances"), live.instances, shares);
  const mean = several(live.recent_requests, "request", "requests");
  say("instances-hint", live.recent_requests
    ? `“First token in” is for a request that came now, with as much to compute as the last ${mean} had.` : "");
  if (live.events !== undefined) {
    say("events-hint", eventsHint(live.events));
    showEvents(byId("events"), live.events);
  }
  eventsVersion = live.events_version;
  say("choices-hint", `Requests sent by this gateway in the last ${seconds(live.timeline.since_s)}.`);
  showChoices(byId("choices"), live.timeline.choices);
  const moved = several(live.moves_applied, "was moved", "were moved");
  const taken = several(live.requests_taken, "was taken", "were taken");
  say("moves-hint", `Of the requests that waited here, ${moved} off instances with too much to do and ${taken} by ` +
    "instances with nothing else to do since the start.");
  showMoves(byId("moves"), live.moves);
  say("gateways-hint", live.gateways.length > 1
    ? `All on this page is as ${live.gateway_id} sees it; the others have pages of their own.` : "");
  showGateways(byId("gateways"), live);
}

function showPools(live) {
  const select = byId("pool");
  byId("pool-choice").hidden = live.pools.length < 2;
  const names = live.pools.join("\n");
  if (select.dataset.names !== names) {
    select.dataset.names = names;
    select.replaceChildren(...live.pools.map((name) => element("option", { value: name }, name || "(first)")));
  }
  if (document.activeElement !== select) select.value = live.pool;
}

function showRings(live) {
  const parent = byId("rings");
  if (live.prefixes === undefined) {
    shares = [];
    ringsVersion = "";
    say("rings-hint", "");
    showEmpty(parent, `The policy ${live.policy} places without DualMap's rings.`);
    byId("prefixes").replaceChildren();
    showLegend(byId("legend"), [], choose);
    return;
  }
  if (live.rings !== undefined) shares = live.rings.map((ring) => ring.shares);
  ringsVersion = live.rings_version;
  const onRings = Object.keys(shares[0] ?? {}).length;
  if (onRings) drawRings(parent, live.rings, live.prefixes, onRings);
  else showEmpty(parent, "No instance is on the rings.");
  showLegend(byId("legend"), Object.keys(shares[0] ?? {}), choose);
  say("rings-hint", onRings ? ringsHint(live) : "");
  showPrefixes(byId("prefixes"), live.prefixes, live.recent_requests, choose);
  highlight(parent, ...chosen);
}

function ringsHint({ prefixes, deepened, recent_requests: recent }) {
  const numbers = prefixes.length
    ? `Numbers are the hottest prefixes of the last ${several(recent, "request", "requests")}: on the outer ring their ` +
      "first candidate, on the inner ring the second. A request may also run where its prefix is found cached, or " +
      "where least is to do. "
    : "";
  return numbers + (deepened
    ? `${several(deepened, "prefix was", "prefixes were")} too hot for two instances; the requests are told apart by ` +
      "more of their prompts."
    : "");
}

function choose(instanceIds, key) {
  chosen = [instanceIds, key];
  highlight(byId("rings"), instanceIds, key);
}

function showTimelines({ timeline, ttft_slo_s: objectiveS }) {
  const { buckets } = timeline;
  const ages = buckets.map((bucket, i) => (bucket.age_s + (buckets[i + 1]?.age_s ?? 0)) / 2);
  const kept = buckets.map((b) => (b.kept + b.missed ? b.kept / (b.kept + b.missed) : null));
  const p50 = buckets.map((bucket) => bucket.p50_s);
  const p90 = buckets.map((bucket) => bucket.p90_s);
  const span = `the last ${seconds(timeline.since_s)}`;
  const all = `${percentKept(timeline.kept, timeline.missed)} of ${several(timeline.kept + timeline.missed, "request", "requests")}`;
  say("objective-hint", kept.some((share) => share !== null)
    ? `${all} in ${span}; rejected and failed ones count as missed.` : "No first token in this time.");
  const legend = [["line p50", `P50 ${seconds(timeline.p50_s)}`], ["line p90", `P90 ${seconds(timeline.p90_s)}`],
    ["level", `objective ${seconds(objectiveS)}`]];
  byId("ttft-hint").replaceChildren(
    ...legend.map(([kind, text]) => element("span", { class: "legend" }, sample(kind), text)),
    timeline.first_tokens ? `in ${span}; of streams` : "No first token in this time.");
  drawTimeline(byId("objective"), `Share of first tokens within the objective: ${all}`, ages,
    [{ kind: "kept", values: kept }], shareScale(kept), null);
  const scale = secondsScale(p90);
  const level = objectiveS <= scale.to ? objectiveS : null;
  drawTimeline(byId("ttft"), `Time to first token: P50 ${seconds(timeline.p50_s)}, P90 ${seconds(timeline.p90_s)}`, ages,
    [{ kind: "p50", values: p50 }, { kind: "p90", values: p90 }], scale, level);
}

byId("pool").addEventListener("change", (event) => {
  pool = event.target.value;
  ringsVersion = "";
  ask();
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    say("connection", "A token has letters, digits and signs of ASCII only.");
    return;
  }
  sessionStorage.setItem(TOKEN, token);
  byId("token").value = "";
  byId("token-form").hidden = true;
  ask();
});
document.addEventListener("visibilitychange", ask);
ask();
