"""Requests in two legs to ranks of data-parallel servers."""

from dataclasses import replace

from dualmap.scheduler.role import Role
from tests.router.requests.test_legs import CARDS, CHAT, decode, prefill


async def test_each_leg_is_for_the_rank_of_its_instance(fleet):
    async with fleet(prefill, decode, cards=CARDS) as f:
        roles = (Role.PREFILL, Role.DECODE)
        members = [f.member(index, role=role, model_cards=CARDS) for index, role in enumerate(roles)]
        f.apply(*(replace(m, endpoint=replace(m.endpoint, rank=5 + n)) for n, m in enumerate(members)))
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert [i.received[0].headers["x-data-parallel-rank"] for i in f.instances] == ["5", "6"]
