"""What stands in front of an instance takes what the instance takes, and passes on in its words what it refuses."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.server import SimServer
from dualmap.router.access.access import Access
from dualmap.router.access.api_keys import hash_key
from dualmap.router.tokens.token_blocks import TokenBlocks
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from tests.router.conftest import Answer, Client
from tests.router.made_tokenizers import save_tokenizer
from tests.vllm.lenient_bodies import BASES, LENIENT_BODIES, MODEL, LenientBody

KEY = "dm-key-of-a"
BLOCK_TOKENS = 512
KINDS = ("as it is", "asks for no usage", "keys and tenants apart", "with a tokenizer")
TWO_POOLS = "two pools"
UNNAMED = {"no model", "model null", "model empty"}
QUICK = EngineProfile(prefill_s_per_token=1e-6, max_model_len=8192)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Iterator[TokenBlocks]:
    made = TokenBlocks(save_tokenizer(tmp_path_factory.mktemp("tokenizer")), BLOCK_TOKENS)
    yield made
    made.close()


def gateways(tmp_path, tokens: TokenBlocks) -> dict[str, dict]:
    """What each kind of gateway is made with."""
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": [{"sha256": hash_key(KEY.encode()), "tenant": "a"}]}))
    return {
        "as it is": {},
        "asks for no usage": {"about": {"ask_for_usage": False}},
        "keys and tenants apart": {"about": {"access": Access(keys, time.monotonic), "isolate_tenants": True}},
        "with a tokenizer": {"tokens": tokens},
        TWO_POOLS: {"pools": ("a", "b")},
    }


def headers_of(row: LenientBody) -> str:
    content_type = "" if row.content_type is None else f"content-type: {row.content_type}\r\n"
    return f"{content_type}authorization: Bearer {KEY}\r\n"


async def ask(client: Client, row: LenientBody) -> Answer:
    return await client.post(row.path, row.body, headers_of(row))


def told(answer: Answer) -> tuple[int, str, object]:
    """What a client is told. Of what is not there only how it is called: the gateway, which says so by itself, gives
    errors of messages the types that Anthropic's documents have."""
    words: object = answer.body
    if answer.status == 404:
        words = answer.json["error"]["message"]
    elif answer.status == 200:
        words = None
    return answer.status, answer.headers["content-type"], words


@pytest.mark.parametrize("path", BASES)
@pytest.mark.parametrize("kind", [*KINDS, TWO_POOLS])
async def test_a_gateway_is_as_lenient_as_its_instance(fleet, tmp_path, tokens, kind, path):
    """Where there are several pools, a model has to be named: nothing else tells which of them is meant."""
    server = SimServer(QUICK, MODEL, None)
    port = await server.start("127.0.0.1", 0)
    capacity, cards = InstanceCapacity(), ({"id": MODEL},)
    member = Member(
        "sim", 1, Endpoint("127.0.0.1", port), state=MemberState.READY, capacity=capacity, model_cards=cards
    )
    async with fleet(**gateways(tmp_path, tokens)[kind]) as f:
        if kind == TWO_POOLS:
            of_another = replace(member, instance_id="other", pool="a", model_cards=({"id": "other"},))
            f.apply(of_another, replace(member, pool="b"))
        else:
            f.apply(member)
        client, direct = await f.client(), await f.client(port)
        other = {}
        for row in LENIENT_BODIES:
            if row.path == path:
                through, alone = told(await ask(client, row)), told(await ask(direct, row))
                if through != alone:
                    other[row.name] = through, alone
        assert other.keys() == (UNNAMED if kind == TWO_POOLS else set()), other
        assert all(through[0] == 400 for through, _ in other.values())
        f.check_books_are_empty()
    await server.stop()
