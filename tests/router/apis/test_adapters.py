"""LoRA adapters through the gateway: whose requests go where, and under which key."""

from dualmap.router.apis.chat import CHAT as CHAT_API
from dualmap.router.apis.read_body import Scope
from dualmap.router.http.http_request import HttpRequest
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.events import InstanceJoined, ServedModel
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.membership_events import membership_events
from tests.router.conftest import CHAT, answer_hello, post

BASE = {"id": "tiny", "parent": None}
SQL = {"id": "sql", "parent": "tiny"}


def ask(model: str) -> dict:
    return {**CHAT, "model": model}


async def test_a_request_for_an_adapter_goes_to_an_instance_that_has_it(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        f.apply(f.member(0, model_cards=(BASE,)), f.member(1, model_cards=(BASE, SQL)))
        client = await f.client()
        for _ in range(4):
            answer = await client.post("/v1/chat/completions", ask("sql"))
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, "i1")
            assert f.instances[1].received[-1].json["model"] == "sql"
        assert f.gateway.scheduler.instances["i1"].adapters.is_loaded("sql")


async def test_an_adapter_that_is_loaded_later_is_served_from_then_on(fleet):
    async with fleet(answer_hello) as f:
        f.apply(f.member(0, model_cards=(BASE,)))
        client = await f.client()
        assert (await client.post("/v1/chat/completions", ask("sql"))).status == 404
        f.apply(f.member(0, model_cards=(BASE, SQL)))
        assert (await client.post("/v1/chat/completions", ask("sql"))).status == 200


async def test_while_the_only_instance_with_it_is_lost_others_are_not_asked(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        f.apply(f.member(0, model_cards=(BASE,)), f.member(1, MemberState.LOST, model_cards=(BASE, SQL)))
        client = await f.client()
        await client.send(post("/v1/chat/completions", ask("sql")))
        assert (await client.answer()).status == 503
        assert f.instances[0].received == []


def test_the_same_prompt_has_other_blocks_under_another_adapter():
    bodies = [b'{"model":"%b","messages":[{"role":"user","content":"hi"}]}' % name for name in (b"tiny", b"sql")]
    base, sql = (CHAT_API.read(HttpRequest(0.0), body, Scope(512)).blocks for body in bodies)
    assert base != sql


def test_the_core_hears_of_an_instances_adapters_when_they_change():
    def membership(epoch: int, *cards: dict) -> Membership:
        member = Member(
            "a", 1, Endpoint("127.0.0.1", 1), state=MemberState.READY, capacity=InstanceCapacity(), model_cards=cards
        )
        return Membership(epoch, (member,))

    bare, adapted = membership(1, BASE), membership(2, BASE, SQL)
    tiny, short_tiny = ServedModel("tiny"), ServedModel("tiny", 4096)
    assert membership_events(Membership(), adapted) == [InstanceJoined("a", 1, adapters=("sql",), models=(tiny,))]
    assert membership_events(bare, adapted) == [InstanceJoined("a", 1, adapters=("sql",), models=(tiny,))]
    assert membership_events(adapted, bare) == [InstanceJoined("a", 1, adapters=(), models=(tiny,))]
    assert membership_events(adapted, adapted) == []
    short = membership(3, BASE | {"max_model_len": 4096})
    assert membership_events(bare, short) == [InstanceJoined("a", 1, models=(short_tiny,))]
