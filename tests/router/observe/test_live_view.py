"""What the live page is told: GET /admin/live, the page's own files, and who may see what."""

import asyncio
import json
import re

import pytest

from dualmap.router.observe.ui_files import FOLDER, NAMES, UI_PATHS
from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.messages import GatewayState
from dualmap.scheduler.rebalance import plan_rebalance
from tests.router.conftest import CHAT, STREAM, Conversation, answer_hello, post

TOKEN = "authorization: Bearer secret\r\n"
PROMPT = "What only its author may read. " * 400


def asking(content: str, kind: dict = STREAM) -> dict:
    return {**kind, "messages": [{"role": "user", "content": content}]}


async def stream(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.send_event("{}")
    await conversation.send_event("[DONE]")
    await conversation.end_stream()


async def live(f, query: str = "") -> dict:
    client = await f.client(f.admin_port)
    answer = await client.get(f"/admin/live{query}", TOKEN)
    assert answer.status == 200
    return answer.json


async def test_an_idle_fleet_is_shown_with_its_rings_and_without_numbers_that_nobody_measured(fleet):
    async with fleet(stream, stream) as f:
        shown = await live(f)
        assert (shown["gateway_id"], shown["policy"], shown["pools"], shown["pool"]) == ("gateway", "dualmap", [""], "")
        assert shown["timeline"]["p50_s"] is shown["timeline"]["p90_s"] is None
        assert set(shown["timeline"]["choices"].values()) == {0}
        assert shown["moves"] == shown["prefixes"] == []
        assert [i["instance_id"] for i in shown["instances"]] == ["i0", "i1"]
        assert all(i["state"] == "ready" and i["ttft_s"] == 0 and i["load_share"] == 1 for i in shown["instances"])
        assert (shown["tpot_slo_s"], {i["tpot_s"] for i in shown["instances"]}) == (0.0, {0.0})
        for ring in shown["rings"]:
            assert set(ring["owners"]) == {"i0", "i1"}
            assert sum(ring["shares"].values()) == pytest.approx(1)


async def test_requests_show_as_choices_first_tokens_and_a_hot_prefix_with_its_candidates(fleet):
    async with fleet(stream, stream) as f:
        client = await f.client()
        for _ in range(5):
            await client.post("/v1/chat/completions", asking(PROMPT))
        await client.post("/v1/chat/completions", asking("another"))
        shown = await live(f)
        timeline = shown["timeline"]
        assert sum(timeline["choices"].values()) == timeline["first_tokens"] == timeline["kept"] == 6
        assert 0 < timeline["p50_s"] <= timeline["p90_s"]
        assert shown["recent_requests"] == 6
        (prefix,) = shown["prefixes"]
        assert prefix["requests"] == sum(prefix["ran_on"].values()) == 5
        assert set(prefix["candidates"]) == {"i0", "i1"}
        assert len(prefix["turns"]) == 2
        assert all(0 <= turn < 1 for turn in prefix["turns"])
        assert re.fullmatch("[0-9a-f]{8}", prefix["key"])


async def test_a_prefix_too_hot_for_two_instances_is_counted_and_not_drawn(fleet):
    async with fleet(stream, stream) as f:
        client = await f.client()
        for number in range(12):
            await client.post("/v1/chat/completions", asking(PROMPT + str(number)))
        shown = await live(f)
        assert shown["deepened"] == 1
        assert shown["recent_requests"] == 12


async def test_no_prompt_and_no_secret_is_shown(fleet):
    async with fleet(stream, stream) as f:
        client = await f.client()
        for _ in range(3):
            head = "authorization: Bearer key-of-a-client\r\n"
            await client.post("/v1/chat/completions", asking(PROMPT), head)
        text = json.dumps(await live(f))
        assert "author" not in text
        assert "secret" not in text
        assert "key-of-a-client" not in text


async def test_rings_are_sent_again_only_when_they_have_changed(fleet):
    async with fleet(stream, stream) as f:
        first = await live(f)
        known = f"?rings={first['rings_version']}"
        assert "rings" not in await live(f, known)
        f.apply(f.member(0), f.member(1, MemberState.DRAINING))
        changed = await live(f, known)
        assert changed["rings"][0]["owners"] == ["i0"]
        f.apply(f.member(0), f.member(1))
        assert (await live(f))["rings_version"] == first["rings_version"]


async def test_instances_that_do_not_serve_are_shown_with_their_state(fleet):
    async with fleet(stream, stream) as f:
        f.apply(f.member(0, MemberState.LOST), f.member(1, MemberState.DRAINING))
        lost, draining = (await live(f))["instances"]
        assert (lost["state"], draining["state"]) == ("lost", "draining")
        assert "running" not in lost
        assert draining["running"] == 0


async def test_an_instance_that_refuses_is_shown_as_left_alone(fleet):
    async with fleet(stream, stream) as f:
        f.instances[0].stop()
        client = await f.client()
        for number in range(8):
            await client.post("/v1/chat/completions", asking(str(number)))
        refusing, other = (await live(f))["instances"]
        assert refusing["left_alone_s"] > 0
        assert other["left_alone_s"] == 0


async def test_a_policy_without_rings_shows_all_else(fleet):
    async with fleet(stream, stream, config=SchedulerConfig(policy="round_robin")) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", STREAM)
        shown = await live(f)
        assert not {"rings", "rings_version", "prefixes"} & shown.keys()
        assert shown["timeline"]["choices"]["policy"] == 1


async def test_moves_are_shown_with_where_from_where_to_and_why(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await answer_hello(conversation)

    capacity = InstanceCapacity(prefill_tokens_per_s=1000.0)
    async with fleet(answer_late, answer_late, config=SchedulerConfig(ttft_slo_s=1.0)) as f:
        f.apply(f.member(0, incarnation=2, capacity=capacity))
        clients = [await f.client() for _ in range(4)]
        for number, client in enumerate(clients):
            body = asking(str(number) * 12_000, CHAT)
            await client.send(post("/v1/chat/completions", body, f"x-request-id: mine-{number}\r\n"))
        await f.until(lambda: len(f.gateway.driver.exchanges) == 4)
        busy = (await live(f))["instances"][0]
        assert busy["work_s"] > 0
        assert busy["ttft_s"] > busy["work_s"]
        f.apply(f.member(0, incarnation=2, capacity=capacity), f.member(1, incarnation=2, capacity=capacity))
        snapshot = f.gateway.snapshots()[""]
        moves = tuple(plan_rebalance(snapshot, f.gateway.scheduler.config))
        f.gateway.propose("", moves, snapshot.version)
        await f.until(lambda: len(f.instances[1].received) > 0)
        shown = await live(f)
        assert shown["moves"]
        assert all((move["from"], move["to"], move["why"]) == ("i0", "i1", "moved") for move in shown["moves"])
        assert all(move["request_id"].startswith("mine-") for move in shown["moves"])
        assert shown["moves_applied"] == len(moves)
        release.set()
        assert {(await client.answer()).status for client in clients} == {200}


async def test_each_pool_is_shown_by_itself(fleet):
    async with fleet(stream, stream, pools=("", "code")) as f:
        cards = ({"id": "tiny"},), ({"id": "coder"},)
        f.apply(f.member(0, model_cards=cards[0]), f.member(1, pool="code", model_cards=cards[1]))
        client = await f.client()
        for model in ("tiny", "coder", "coder"):
            await client.post("/v1/chat/completions", {**STREAM, "model": model})
        for query, instance_id, requests in (("", "i0", 1), ("?pool=", "i0", 1), ("?pool=code", "i1", 2)):
            shown = await live(f, query)
            assert shown["pools"] == ["", "code"]
            assert [i["instance_id"] for i in shown["instances"]] == [instance_id]
            assert shown["rings"][0]["owners"] == [instance_id]
            assert shown["recent_requests"] == shown["timeline"]["first_tokens"] == requests
        admin = await f.client(f.admin_port)
        answer = await admin.get("/admin/live?pool=none", TOKEN)
        assert (answer.status, answer.error["message"]) == (400, "There is no pool 'none'.")


async def test_the_other_gateways_are_named(fleet):
    async with fleet(stream) as f:
        f.gateway.note_fleet((GatewayState("gateway", 1, "a:1", age_s=0.1), GatewayState("other", 1, "b:1", age_s=0.2)))
        assert [(g["gateway_id"], g["admin"]) for g in (await live(f))["gateways"]] == [
            ("gateway", "a:1"),
            ("other", "b:1"),
        ]


@pytest.mark.parametrize("headers", ["", "authorization: Bearer wrong\r\n"])
async def test_what_is_live_needs_the_token_and_the_page_does_not(fleet, headers):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        assert (await client.get("/admin/live", headers)).status == 401
        assert (await client.get("/ui", headers)).status == 200


@pytest.mark.parametrize("path", [*UI_PATHS, "/admin/live"])
async def test_nothing_of_the_page_is_kept_or_taken_for_something_else(fleet, path):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        answer = await client.get(path, TOKEN)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path != "/admin/live":
            assert answer.headers["content-security-policy"].startswith("default-src 'self';")
            assert answer.body == (FOLDER / UI_PATHS[path]).read_bytes()


async def test_only_the_files_of_the_page_are_served(fleet):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        for path in ("/ui/../admin.py", "/ui/%2e%2e/admin.py", "/ui/nothing.js"):
            assert (await client.get(path)).status == 404
        assert (await client.post("/ui", {})).status == 405


def test_every_file_of_the_page_is_named():
    assert sorted(NAMES) == sorted(file.name for file in FOLDER.iterdir())


def test_the_page_has_no_inline_script_or_style_and_no_address_elsewhere():
    page = (FOLDER / "page.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|\son\w+=", page)
    for name in NAMES:
        text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://(?!\$\{)|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text), name
