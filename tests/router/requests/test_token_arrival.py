"""A gateway with a tokenizer: requests are placed by their tokens once these are there, and without them in time."""

import json
from concurrent.futures import Future

import pytest

from dualmap.router.requests import token_arrival
from dualmap.router.tokens.chat_prompt import read_chat
from dualmap.router.tokens.completion_prompt import read_completion
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.token_blocks import Fallback, TokenBlocks, TokenizedPrompt
from dualmap.scheduler.events import BlocksRemoved, BlocksStored
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample, SignalNews
from dualmap.scheduler.role import Role
from tests.conftest import WAIT_S
from tests.router.conftest import CHAT, answer_hello, post
from tests.router.made_tokenizers import save_tokenizer

ADAPTER_CARDS = ({"id": "tiny", "parent": None}, {"id": "tuned", "parent": "tiny"})


class HeldTokens:
    """Prompts as they were handed in; their tokens come when the test says so."""

    def __init__(self) -> None:
        self.prompts: list[tuple[dict, PromptReader, str]] = []
        self.futures: list[Future[TokenizedPrompt | None]] = []
        self.exact = 0
        self.fallbacks = dict.fromkeys(Fallback, 0)

    def submit(self, body: bytes, read: PromptReader, lora_name: str) -> "Future[TokenizedPrompt | None]":
        self.prompts.append((json.loads(body), read, lora_name))
        self.futures.append(Future())
        return self.futures[-1]


@pytest.fixture
def tokens(monkeypatch) -> HeldTokens:
    monkeypatch.setattr(token_arrival, "TIMEOUT_S", WAIT_S)
    return HeldTokens()


async def test_a_request_is_known_by_its_tokens(fleet, tokens):
    async with fleet(tokens=tokens) as f:
        client = await f.client()
        for turn in range(2):
            await client.send(post("/v1/chat/completions", CHAT))
            await f.until(lambda turn=turn: len(tokens.futures) > turn)
            assert len(f.instances[0].received) == turn  # it waits for its tokens
            tokens.futures[turn].set_result(TokenizedPrompt((1, 2, 3), 1700))
            assert (await client.answer()).status == 200
        assert f.gateway.scheduler.instances["i0"].cache.held_blocks((1, 2, 3)) == 3
        assert f.gateway.metrics.believed_prompt_tokens == 3400
        assert f.gateway.metrics.believed_cached_tokens == 3 * 512
        assert tokens.prompts[0] == (CHAT, read_chat, "")
        f.check_books_are_empty()


async def test_an_adapter_has_blocks_of_its_own(fleet, tokens):
    async with fleet(tokens=tokens, cards=ADAPTER_CARDS) as f:
        client = await f.client()
        await client.send(post("/v1/completions", {"model": "tuned", "prompt": "x"}))
        await f.until(lambda: bool(tokens.futures))
        tokens.futures[0].set_result(None)
        await client.answer()
        assert tokens.prompts == [({"model": "tuned", "prompt": "x"}, read_completion, "tuned")]


async def test_a_request_has_the_same_home_whether_its_tokens_come_in_time_or_not(fleet, tokens):
    async with fleet(*[answer_hello] * 3, tokens=tokens) as f:
        client = await f.client()
        for number, known in enumerate((None, TokenizedPrompt((1, 2, 3), 1700), TokenizedPrompt((), 20))):
            await client.send(post("/v1/chat/completions", CHAT))
            await f.until(lambda number=number: len(tokens.futures) > number)
            tokens.futures[number].set_result(known)
            assert (await client.answer()).status == 200
        attempts = list(f.gateway.scheduler.books.ended)
        assert [attempt.request.blocks for attempt in attempts[1:]] == [(1, 2, 3), ()]
        assert [attempt.request.key_blocks for attempt in attempts] == [(), *[attempts[0].request.blocks] * 2]
        assert len({attempt.candidates for attempt in attempts}) == 1


async def test_the_others_are_told_what_the_instance_holds_and_what_names_the_prompt(fleet, tokens):
    async with fleet(tokens=tokens) as f:
        f.gateway.noted.sent.wanted = True
        client = await f.client()
        for number, known in enumerate((TokenizedPrompt((1, 2, 3), 1700), TokenizedPrompt((), 20), None)):
            await client.send(post("/v1/chat/completions", CHAT))
            await f.until(lambda number=number: len(tokens.futures) > number)
            tokens.futures[number].set_result(known)
            assert (await client.answer()).status == 200
        long, short, untold = f.gateway.noted.sent.take()
        assert (long.instance_id, long.blocks, long.key_blocks) == ("i0", (1, 2, 3), untold.blocks)
        assert (short.blocks, short.key_blocks) == ((), untold.blocks)
        assert untold.key_blocks == ()


@pytest.mark.parametrize(("prompt_tokens", "splits"), [(1500, True), (1501, False)])
async def test_what_its_tokens_make_too_long_is_not_split(fleet, tokens, prompt_tokens, splits):
    cards = ({"id": "tiny", "max_model_len": 100_000},)
    async with fleet(answer_hello, answer_hello, tokens=tokens) as f:
        f.apply(*(f.member(i, role=role, model_cards=cards) for i, role in enumerate((Role.PREFILL, Role.DECODE))))
        client = await f.client()
        body = {"model": "tiny", "prompt": "a long question " * 400, "max_tokens": 98_500}
        await client.send(post("/v1/completions", body))
        await f.until(lambda: bool(tokens.futures))
        tokens.futures[0].set_result(TokenizedPrompt((1, 2, 3), prompt_tokens))
        assert (await client.answer()).status == 200
        assert [len(i.received) for i in f.instances] == [splits, 1]
        f.check_books_are_empty()


@pytest.mark.parametrize("late", [True, False])
async def test_without_tokens_it_is_known_by_its_bytes(fleet, tokens, monkeypatch, late: bool):
    if late:
        monkeypatch.setattr(token_arrival, "TIMEOUT_S", 0.01)
    async with fleet(tokens=tokens) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: bool(tokens.futures))
        if not late:
            tokens.futures[0].set_result(None)
        assert (await client.answer()).status == 200
        assert len(f.gateway.scheduler.instances["i0"].cache) == 1
        scraped = f.gateway.metrics.scrape().decode()
        assert f'dualmap_tokenized_prompts_total{{outcome="late"}} {float(late)}' in scraped


async def test_a_client_that_leaves_meanwhile_costs_nothing(fleet, tokens):
    async with fleet(tokens=tokens) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: bool(tokens.futures))
        client.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        tokens.futures[0].set_result(TokenizedPrompt((1,), 600))
        other = await f.client()
        await other.get("/health")
        assert f.instances[0].received == []
        f.check_books_are_empty()


async def test_what_is_passed_through_has_no_tokens(fleet, tokens):
    async with fleet(tokens=tokens) as f:
        client = await f.client()
        assert (await client.post("/v1/embeddings", {"input": "x"})).status == 200
        assert tokens.futures == []


async def test_what_instances_say_reaches_the_core_and_the_status(fleet):
    async with fleet() as f:
        signals = InstanceSignals("i0", LoadSample(3, 1, 0.5), 0.25)
        changes = (BlocksStored("i0", (1, 2, 3)), BlocksRemoved("i0", (3,)), BlocksStored("gone", (9,)))
        f.gateway.hear(SignalNews(7, (signals, InstanceSignals("gone", LoadSample(1, 1, 0.1))), changes))
        view = f.gateway.scheduler.instances["i0"]
        assert view.cache.held_blocks((1, 2, 3)) == 2
        shown = f.gateway.status()["members"][0]["signals"]["metrics"]
        assert (shown["running"], shown["waiting"], shown["kv_used"]) == (3, 1, 0.5)
        assert 0.25 <= shown["age_s"] < 20
        scraped = f.gateway.metrics.scrape().decode()
        assert 'dualmap_instance_signal_age_seconds{instance="i0",signal="metrics"}' in scraped


BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": "The quick brown fox"},
    "/v1/responses": {"model": "tiny", "input": "hello", "instructions": "You help."},
    "/v1/messages": {"model": "tiny", "max_tokens": 9, "messages": CHAT["messages"]},
    "/inference/v1/generate": {"model": "tiny", "token_ids": [5, 6, 7], "sampling_params": {}},
}


async def test_every_prompt_that_is_placed_by_its_prefix_is_known_by_its_tokens(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr(token_arrival, "TIMEOUT_S", WAIT_S)
    blocks = TokenBlocks(save_tokenizer(tmp_path), 2)
    async with fleet(tokens=blocks) as f:
        client = await f.client()
        for path, body in BODIES.items():
            assert (await client.post(path, body)).status == 200
        requests = [attempt.request for attempt in f.gateway.scheduler.books.ended]
        assert all(request.blocks and request.key_blocks for request in requests)
        assert len(requests) == blocks.exact == len(BODIES)
        count = {"model": "tiny", "messages": CHAT["messages"]}
        assert (await client.post("/v1/messages/count_tokens", count)).status == 200
        assert blocks.exact == len(BODIES)  # what is only counted is in no cache
    blocks.close()
