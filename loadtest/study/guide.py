"""What a reader of a study wants to know first: its numbers in a sentence, and which router serves which work best."""

from collections.abc import Mapping
from html import escape
from math import isnan
from typing import NamedTuple

from dualmap.loadtest.study.file import Cell
from dualmap.loadtest.study.tables import DUALMAP, MAIN_INSTANCES, Capacities, Estimate, Verdict, verdict
from dualmap.loadtest.study.text import NONE, amount, counted
from dualmap.loadtest.virtual.objectives import IN_WORDS, TTFT

_WORK = {
    "mooncake_conversation": "chats",
    "mooncake_toolagent": "agents with tools",
    "mooncake_synthetic": "a mix of chats, documents and tools",
    "weka_agentic": "coding agents with long contexts",
    "lmcache_agents": "agents with short calls",
    "azure_conv": "short chats",
    "azure_code": "code completion",
    "synth:hot": "one system prompt for all, other words after it",
    "synth:hot-short": "one system prompt for all, answers of some tokens",
    "synth:hot-60": "one system prompt for 60 % of the requests",
    "synth:low-reuse": "prompts that share nothing",
}
_MODEL = {"full": "", "prefill-only": "of the answer only the first token", "small-cache": "little room for KV cache"}
_DISTURBED = {
    "spt-x0.5": "prompts believed twice as fast as they are",
    "spt-x2": "prompts believed half as fast as they are",
    "gateways-4": "4 gateways",
    "signals-50ms": "4 gateways, signals 50 ms old",
    "signals-200ms": "4 gateways, signals 200 ms old",
    "stale": "4 gateways, signals 1 s old",
    "slow-one": "one instance at half speed",
    "hetero": "half of the instances twice as fast",
    "burst": "bursts of three times the rate",
    "cold-start": "a quarter of the instances joins cold",
    "lose-one": "an instance lost and back",
    "told-answers": "the length of each answer known",
    "named-sessions": "clients name their sessions",
}


class Advice(NamedTuple):
    """What serves the work of a cell best. best: of all policies; peer: of those other than dualmap; to_peer: capacity
    of dualmap over the peer's. Hit rates are nan where they were not measured."""

    cell: Cell
    best: str
    to_peer: Estimate
    peer: str
    hit_rate: float
    peer_hit_rate: float


def advice(capacities: Capacities, target: float) -> list[Advice]:
    """A row for each cell that has both dualmap and a peer."""
    found = []
    for cell in capacities.cells:
        peer = capacities.best_peer(cell, target)
        to_peer = capacities.ratio(cell, target, DUALMAP, peer) if peer else None
        if peer is None or to_peer is None or isnan(to_peer.mean):
            continue
        hits = (capacities.of(cell, target, policy, "hit_rate").mean for policy in (DUALMAP, peer))
        found.append(Advice(cell, DUALMAP if to_peer.mean >= 1 else peer, to_peer, peer, *hits))
    return found


def work_words(cell: Cell) -> str:
    """The cell in words of somebody who has never read its trace; names that are not known stay as they are."""
    parts = [_WORK.get(cell.trace, cell.trace), _MODEL.get(cell.model, cell.model)]
    if cell.instances != MAIN_INSTANCES:
        parts.append(f"{cell.instances} instances")
    if cell.slo_s != 5.0:
        parts.append(f"SLO {cell.slo_s:g} s")
    parts.append(_DISTURBED.get(cell.disturbance, cell.disturbance))
    if cell.gateways != 1 and "gateways" not in parts[-1]:
        parts.append(f"{cell.gateways} gateways")
    return ", ".join(filter(None, parts))


def sentence(apart: Mapping[str, Capacities], target: float) -> str:
    """The verdict under each objective in one sentence; "" where there is none. apart: capacities by objective."""
    verdicts = [found for capacities in apart.values() if (found := verdict(capacities, target)) is not None]
    if not verdicts:
        return ""
    first, *others = verdicts
    said = f"Over {counted(first.cells)} a fleet behind {DUALMAP} bears {_said(first)}"
    if first.worst_cell.objective != TTFT:
        said += f" by {first.worst_cell.objective}"
    for found in others:
        said += f"; by {found.worst_cell.objective}, over {counted(found.cells)}, {_said(found)}"
    return said + "."


def _said(found: Verdict) -> str:
    return (
        f"{found.to_peer:.2f} times the traffic of {found.peer}, the best single peer, and at worst "
        f"{found.worst.mean:.2f} times that of {found.worst_peer} ({work_words(found.worst_cell)})"
    )


def guide_table(apart: Mapping[str, Capacities], target: float) -> str:
    """HTML; "" where no cell has both dualmap and a peer. apart: capacities by objective."""
    rows = []
    for objective, capacities in apart.items():
        found = advice(capacities, target)
        if found and len(apart) > 1:
            words = IN_WORDS.get(objective, objective)
            rows.append(f'<tr class="judged"><th colspan="6">what counts: {escape(words)}</th></tr>')
        rows += map(_row, found)
    heads = ("work", "best policy", f"{DUALMAP} / best peer", "best peer", f"cached by {DUALMAP}", "by that peer")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _row(one: Advice) -> str:
    shares = (NONE if isnan(share) else f"{share:.1%}" for share in (one.hit_rate, one.peer_hit_rate))
    cells = (f"<strong>{escape(one.best)}</strong>", escape(amount(one.to_peer)), escape(one.peer), *shares)
    return (
        f'<tr><th title="{escape(one.cell.trace)}">{escape(work_words(one.cell))}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )
