"""Two real servers whose streams are cut off in mid-answer: the client gets the bytes of the undisturbed answer.

`python -m dualmap.loadtest.experiments.cut_streams URL URL` makes more cuts.
"""

import asyncio

import pytest

from dualmap.loadtest.experiments.cut_streams import APIS, TOOLS, Outcome, cut_fleet, cut_many, disagreements, shown
from dualmap.loadtest.experiments.cutting_relay import Cut, Way
from tests.deployment import Deployment

pytestmark = pytest.mark.vllm

ANSWERS, MAX_TOKENS, SEED = 8, 40, 3
ODD_QUESTIONS = (1, 3, 5) * 2


@pytest.fixture(scope="module")
def urls(two_replicas: Deployment) -> list[str]:
    return [f"http://{member['address']}" for member in two_replicas.members().values()]


def test_undisturbed_answers_are_the_same_on_both_servers(urls):
    async def compare() -> list[str]:
        async with cut_fleet(urls, MAX_TOKENS) as fleet:
            return await disagreements(urls, fleet)

    assert asyncio.run(compare()) == []


def test_streams_cut_at_random_are_as_undisturbed_ones(urls):
    async def cut() -> list[Outcome]:
        async with cut_fleet(urls, MAX_TOKENS) as fleet:
            return await cut_many(fleet, ANSWERS, SEED)

    outcomes = asyncio.run(cut())
    assert [shown(outcome) for outcome in outcomes if outcome.difference] == []
    assert sum(bool(outcome.cuts) for outcome in outcomes) > ANSWERS


def test_a_drawn_chat_that_may_call_tools_goes_on_by_ids_that_become_its_chunks(urls):
    async def cut() -> list[Outcome]:
        async with cut_fleet(urls, MAX_TOKENS) as fleet:
            cuts = ([Cut(1, Way.RESET)], [Cut(7, Way.CLOSED)], [Cut(9, Way.WITHIN), Cut(2, Way.RESET)])
            return [await fleet.ask_cut(TOOLS, 0, each) for each in cuts]

    outcomes = asyncio.run(cut())
    assert [shown(outcome) for outcome in outcomes if outcome.difference] == []
    assert all(outcome.cuts for outcome in outcomes)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("api", APIS)
def test_a_stream_cut_within_a_character_is_as_an_undisturbed_one(urls, api, way):
    """Where a server is busy, tokens come together: then there may be no such place in an answer."""

    async def run() -> list[Outcome]:
        async with cut_fleet(urls, MAX_TOKENS) as fleet:
            outcomes = []
            for number in ODD_QUESTIONS:  # to which characters are given that are of several tokens
                outcomes.append(await fleet.ask_cut(api, number, [Cut(5, way, within_character=True)]))
                if outcomes[-1].cuts:
                    break
            return outcomes

    outcomes = asyncio.run(run())
    assert [shown(outcome) for outcome in outcomes if outcome.difference] == []
    assert outcomes[-1].cuts
