"""Whether a request is served in two legs, and who decodes one whose prompt another instance has computed.

A request has one attempt at a time, and each leg is one. The prefill leg is placed as whole requests are, among those
that prefill; the decode leg where there is memory and where least runs, or where most of the prompt is already.
"""

from collections.abc import Set
from math import inf

from xxhash import xxh3_64_intdigest

from dualmap.scheduler.core.books import Books
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.offers import Fleet
from dualmap.scheduler.pick import pick_instance, recompute_price
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import PREFILL
from dualmap.scheduler.ttft_estimate import cached_tokens

FEW = 4  # of the instances with the least to do, those that are compared
MAX_LOOKED_AT = 16  # for such as have memory
MAX_HOLDERS = 2
# So many seconds of waiting for a first token are as bad as one by which a prompt holds up an answer, where memory is
# free. The less is free, the worse: what is held up keeps its memory for longer, which others wait for. Measured:
# docs/results/2026-12-01-prefill-and-decode.md.
HELD_UP_PRICE = 2.0
LEAST_FREE = 0.001


def first_leg(books: Books, request: Request, tried: Set[str]) -> Request:
    """The request itself, or its prefill leg: where another instance computes prompts, and more of this one is to be
    computed than any that decodes holds already."""
    if not request.may_split or request.only or request.stateful:
        return request
    prefill, decode = books.offers.fleet_for(request, PREFILL), books.offers.fleet(request)
    if not decode.able or not prefill.able or prefill.able == decode.able:
        return request
    if (tried or books.suspects) and all(i in tried or i in books.suspects for i in prefill.able):
        return request
    if books.offers.has_revisions and not tried.isdisjoint(decode.able):
        return request  # it may be the revision that fails
    least = books.config.min_prefill_leg_tokens
    if least is None:
        pays = _pays(books, request, prefill, decode, tried)
    else:
        depth, _ = books.holders.deepest_of(request.blocks, decode.bits)
        uncached = request.prompt_tokens - cached_tokens(request, depth, books.config.block_tokens)
        pays = uncached >= max(1, least)
    return request.leg_of(PREFILL) if pays else request


def _pays(books: Books, request: Request, prefill: Fleet, decode: Fleet, tried: Set[str]) -> bool:
    """Whether two legs cost less than the whole at the best of those that decode. Fetching a prompt takes a while, but
    holds up nobody."""
    decode_price_s = books.config.decode_s_per_request * books.answers.mean_tokens
    whole_s = fetch_s = inf
    for view in _weighed(books, request, decode, tried):
        uncached_tokens, work_tokens = view.to_compute(request)
        prefill_s = work_tokens * view.seconds_per_token
        running = view.booked_running
        running_s = running * decode_price_s
        # All who are answered there, and one more: who comes meanwhile.
        held_up_s = (running + 1) * prefill_s / max(view.room.free_kv, LEAST_FREE)
        whole_s = min(whole_s, _first_token_cost_s(view, request, prefill_s) + running_s + HELD_UP_PRICE * held_up_s)
        # What fetches goes before all that waits.
        fetch_s = min(fetch_s, view.prefilling_s + view.service.transfers.seconds(uncached_tokens) + running_s)
    if whole_s == inf:
        return True  # while its prompt is computed, one of them may be back
    for view in _weighed(books, request, prefill, tried):
        prefill_s = view.to_compute(request)[1] * view.seconds_per_token
        if _first_token_cost_s(view, request, prefill_s) + fetch_s < whole_s:
            return True
    return False


def _weighed(books: Books, request: Request, fleet: Fleet, tried: Set[str]) -> list[InstanceView]:
    """Those with the least to do, and who holds most of the prompt, whether they have memory or not."""
    suspects, unable = books.suspects, fleet.unable
    views = []
    for view in books.loads.coolest():
        instance_id = view.instance_id
        if instance_id not in unable and instance_id not in tried and instance_id not in suspects:
            views.append(view)
            if len(views) == FEW:
                break
    return views + _holders(books, request, fleet, suspects | tried, views)[:MAX_HOLDERS]


def _first_token_cost_s(view: InstanceView, request: Request, prefill_s: float) -> float:
    """Whoever waits in a line lengthens it for those who come after, on the mean by as much as for itself."""
    return 2 * view.ahead_s(request) + prefill_s


def choose_decoder(books: Books, request: Request, tried: Set[str]) -> Placement | None:
    """request: a decode leg. Avoids suspects and instances that failed it, as long as others are left. None: nobody is
    there who can read its prompt."""
    fleet = books.offers.fleet(request)
    suspects = books.suspects
    for avoid in (suspects | tried | fleet.unable, tried | fleet.unable, fleet.unable):
        if views := _candidates(books, request, fleet, avoid):
            break
    else:
        return None
    config, mean_tokens = books.config, books.answers.mean_tokens
    tpot_slo_s = config.tpot_slo_s if request.tpot_slo_s is None else request.tpot_slo_s
    estimates = [view.estimate_ttft(request, 0, tpot_slo_s) for view in views]
    price = recompute_price(books.loads.busy_of(fleet.able), config)
    decode_price_s = config.decode_s_per_request * mean_tokens
    estimate, reason = pick_instance(estimates, config.slo_aware, price, decode_price_s, mean_tokens)
    return Placement(estimate, tuple(view.instance_id for view in views), reason, considered=estimates)


def _candidates(books: Books, request: Request, fleet: Fleet, avoid: Set[str]) -> list[InstanceView]:
    """Those with the least to do, and who holds most of the prompt: of those that have memory, unless none has."""
    answer_tokens = books.answers.expected(request)
    rivals = books.loads.rivals
    most = FEW if rivals is None else 2 * FEW  # several gateways must not all find the same one
    with_room: list[InstanceView] = []
    without: list[InstanceView] = []
    for view in books.loads.coolest():
        if view.instance_id in avoid:
            continue
        (with_room if view.room.for_kv(request, answer_tokens) else without).append(view)
        if len(with_room) == most or len(with_room) + len(without) == MAX_LOOKED_AT:
            break
    cool = with_room or without[:most]
    if rivals is not None and cool:
        first = xxh3_64_intdigest(request.id.encode()) % len(cool)
        cool = (cool[first:] + cool[:first])[:FEW]
    holders = _holders(books, request, fleet, avoid, cool)
    return cool + [v for v in holders if not with_room or v.room.for_kv(request, answer_tokens)][:MAX_HOLDERS]


def _holders(
    books: Books, request: Request, fleet: Fleet, avoid: Set[str], besides: list[InstanceView]
) -> list[InstanceView]:
    """Who holds most of the prompt, the one with the least to do first. besides: are not among them."""
    _, mask = books.holders.deepest_of(request.blocks, fleet.bits)
    if not mask:
        return []
    views = [books.instances[i] for i in books.holders.instances(mask) if i not in avoid]
    return sorted([view for view in views if view not in besides], key=lambda view: view.load_s)
