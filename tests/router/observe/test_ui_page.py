"""The live page as people see it: a real headless Chromium in front of a gateway with simulated instances."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.async_api import expect

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.server import SimServer
from dualmap.router.gateway.admin import AdminService
from dualmap.router.http.limits import HttpLimits
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import GatewayState
from dualmap.scheduler.role import Role
from tests.router.conftest import Fleet, answer_hello
from tests.router.ui_browser import CHROMIUM, PHONE, WIDE, open_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

JSON_LINE = "content-type: application/json\r\n"
TOKEN = "secret"
CARDS = ({"id": "sim"},)
CAPACITY = InstanceCapacity()
QUICK = EngineProfile(prefill_s_per_token=1e-6, step_base_s=0.001)


@dataclass
class Shown:
    """A fleet of simulated instances sim-0, sim-1, ... and where its page is."""

    fleet: Fleet
    servers: list[SimServer]
    ports: list[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.fleet.admin_port}/ui"

    def member(
        self, number: int, state: MemberState = MemberState.READY, capacity: InstanceCapacity = CAPACITY
    ) -> Member:
        return Member(
            f"sim-{number}",
            1,
            Endpoint("127.0.0.1", self.ports[number]),
            state=state,
            capacity=capacity,
            model_cards=CARDS,
        )

    async def ask(self, requests: int, system_prompts: int = 3) -> None:
        """Chats that share so many system prompts, as streams."""
        client = await self.fleet.client()
        for number in range(requests):
            system = {"role": "system", "content": f"You are helper number {number % system_prompts}. " * 400}
            messages = [system, {"role": "user", "content": f"question {number}"}]
            body = {"model": "sim", "stream": True, "max_tokens": 3, "messages": messages}
            assert (await client.post("/v1/chat/completions", body, JSON_LINE)).status == 200


@asynccontextmanager
async def simulated(fleet: Callable[..., Any], instances: int) -> AsyncIterator[Shown]:
    servers = [SimServer(QUICK, "sim", None) for _ in range(instances)]
    ports = [await server.start("127.0.0.1", 0) for server in servers]
    try:
        async with fleet(answer_hello) as f:
            shown = Shown(f, servers, ports)
            f.apply(*(shown.member(number) for number in range(instances)))
            yield shown
    finally:
        for server in servers:
            await server.stop()


def on_a_loop(scenario: Coroutine[Any, Any, None]) -> None:
    """A browser takes longer than the other tests of this folder may."""
    asyncio.run(scenario)


def test_the_page_fills_with_the_fleet_and_its_work(fleet, tmp_path):
    async def scenario() -> None:
        async with simulated(fleet, 3) as shown, open_page(shown.url, WIDE, token=TOKEN) as seen:
            page = seen.page
            await shown.ask(12)  # no prefix is hot enough to be deepened
            for number in range(3):
                await expect(page.locator("#instances")).to_contain_text(f"sim-{number}")
            await expect(page.locator("#rings .arc")).to_have_count(6)
            await expect(page.locator("#prefixes li")).to_have_count(3)
            await expect(page.locator("#rings .badge")).to_have_count(6)
            for row in await page.locator("#prefixes .candidates").all_text_contents():
                assert re.fullmatch(r"(sim-\d) or (?!\1)sim-\d", row)
            await expect(page.locator("#choices")).to_contain_text("held more of the prompt")
            await expect(page.locator("#objective-hint")).to_contain_text("100 % of 12 requests")
            assert await page.locator("#ttft path.p90").count() > 0
            await expect(page.locator("#summary")).to_contain_text("3 of 3")
            await expect(page.locator("#moves")).to_contain_text("No request has moved yet")
            await expect(page.locator("#gateways")).to_contain_text("gateway is the only one.")
            assert await seen.overflow_px() <= 0
            assert "helper number" not in await page.content()
            await page.screenshot(path=tmp_path / "ui.png", full_page=True)
            assert (seen.errors, seen.elsewhere) == ([], [])

    on_a_loop(scenario())


def test_roles_and_revisions_stand_beside_the_names_of_instances_that_have_some(fleet):
    async def scenario() -> None:
        async with fleet(answer_hello, answer_hello, answer_hello) as f:
            away = f.member(1, role=Role.DECODE, revision="v2", state=MemberState.STARTING)
            f.apply(f.member(0, role=Role.PREFILL, revision="v1"), away, f.member(2))
            async with open_page(f"http://127.0.0.1:{f.admin_port}/ui", token=TOKEN) as seen:
                names = seen.page.locator("#instances tbody tr > :first-child")
                await expect(names).to_have_text(["i0prefill, revision v1", "i1decode, revision v2", "i2"])
                assert (seen.errors, seen.elsewhere) == ([], [])

    on_a_loop(scenario())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(fleet, tmp_path, scheme):
    async def scenario() -> None:
        async with simulated(fleet, 3) as shown, open_page(shown.url, PHONE, scheme, TOKEN) as seen:
            await shown.ask(12)
            await expect(seen.page.locator("#prefixes li")).to_have_count(3)
            lost = replace(shown.member(2, MemberState.LOST), reason="its start failed: " + "no/such/folder/" * 9)
            shown.fleet.apply(shown.member(0), shown.member(1), lost)
            await expect(seen.page.locator("#instances")).to_contain_text("its start failed")
            assert await seen.overflow_px() <= 0
            dark = await seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
            assert dark == (scheme == "dark")
            await seen.page.screenshot(path=tmp_path / "ui-phone.png", full_page=True)
            assert (seen.errors, seen.elsewhere) == ([], [])

    on_a_loop(scenario())


def test_an_instance_that_dies_is_shown_as_left_alone_and_then_as_lost(fleet):
    async def scenario() -> None:
        async with simulated(fleet, 2) as shown, open_page(shown.url, token=TOKEN) as seen:
            row = seen.page.locator("#instances tbody tr").first
            await expect(row).to_contain_text("ready")
            await shown.servers[0].stop()
            preferred = InstanceCapacity(prefill_tokens_per_s=1e6)
            shown.fleet.apply()
            shown.fleet.apply(shown.member(0, capacity=preferred), shown.member(1))
            asking = asyncio.create_task(shown.ask(100_000, 100_000))  # it is left alone for a second at a time
            await expect(row).to_contain_text("or broke off an answer; left alone for")
            await expect(row.locator(".mark.suspect")).to_have_count(1)
            asking.cancel()
            lost = replace(shown.member(0, MemberState.LOST), reason="connection refused", since=time.time() - 180)
            shown.fleet.apply(lost, shown.member(1))
            await expect(row).to_contain_text("lost for 3 min")
            await expect(row).to_contain_text("connection refused")
            await expect(seen.page.locator("#summary")).to_contain_text("1 of 2")
            await expect(seen.page.locator("#rings .arc")).to_have_count(2)
            shown.fleet.apply(shown.member(0, MemberState.LOST), shown.member(1, MemberState.DRAINING))
            await expect(seen.page.locator("#instances")).to_contain_text("draining")
            await expect(seen.page.locator("#rings")).to_contain_text("No instance is on the rings.")

    on_a_loop(scenario())


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_what_happened_is_a_table_newest_first(fleet, tmp_path, size, scheme):
    async def scenario() -> None:
        async with simulated(fleet, 2) as shown, open_page(shown.url, size, scheme, TOKEN) as seen:
            rows = seen.page.locator("#events tbody tr")
            await expect(seen.page.locator("#events")).to_contain_text("Nothing has happened yet.")
            record = shown.fleet.gateway.events
            lost = {"since": 1.0, "continued": 3, "run_elsewhere": 2, "failed": 0}
            at = time.time()
            hostile = "<img src=x onerror=alert(1)> " + "no/such/folder/" * 9
            for number, (kind, reason, fields) in enumerate(
                [
                    (EventKind.INSTANCE_JOINED, "", {}),
                    (EventKind.INSTANCE_LOST, hostile, lost),
                    (EventKind.INSTANCE_RESTARTED, "", {"exit_code": -9, "log_line": "INFO: serving"}),
                ]
            ):
                record.tell(
                    FleetEvent(
                        at=at + number, kind=kind, instance_id="sim-1", reason=reason, fields=tuple(fields.items())
                    )
                )
            await expect(rows).to_have_count(3)
            texts = await rows.all_text_contents()
            assert "sim-1 is started again; exit code -9; its log ends with: INFO: serving" in texts[0]
            assert "it carried 5 requests: 3 continued, 2 run elsewhere, 0 failed" in texts[1]
            assert "<img" in texts[1]
            assert texts[2].endswith("sim-1 is ready")
            assert "instance lost" in texts[1]
            bad = await rows.nth(1).locator(".event").evaluate("node => getComputedStyle(node).color")
            assert bad == ("rgb(184, 38, 43)" if scheme == "light" else "rgb(244, 134, 138)")
            assert await seen.overflow_px() <= 0
            await seen.page.locator("#events-title").scroll_into_view_if_needed()
            await seen.page.screenshot(path=tmp_path / "events.png")
            assert (seen.errors, seen.elsewhere) == ([], [])

    on_a_loop(scenario())


def test_a_prefix_lights_its_candidates_for_those_who_use_keys(fleet):
    async def scenario() -> None:
        async with simulated(fleet, 4) as shown, open_page(shown.url, token=TOKEN) as seen:
            await shown.ask(12)
            button = seen.page.locator("#prefixes button").first
            await button.focus()
            await expect(seen.page.locator("#rings .arc.lit")).to_have_count(4)  # two instances on two rings
            candidates = await button.locator(".candidates").text_content()
            for arc in await seen.page.locator("#rings .arc.lit").all():
                assert await arc.get_attribute("data-instance") in candidates
            asked = seen.page.expect_response(re.compile("/admin/live"))
            async with asked:
                pass
            await expect(button).to_be_focused()  # looks come and go
            await expect(seen.page.locator("#rings .arc.lit")).to_have_count(4)

    on_a_loop(scenario())


def test_the_token_is_asked_for_and_kept_in_this_tab_only(fleet):
    async def scenario() -> None:
        async with simulated(fleet, 1) as shown, open_page(shown.url) as seen:
            page = seen.page
            await expect(page.locator("#token")).to_be_focused()
            await expect(page.locator("#fleet")).to_be_hidden()
            for token, answer in (("wrong", "The token was refused."), ("„wrong“", "ASCII")):
                await page.fill("#token", token)
                await page.keyboard.press("Enter")
                await expect(page.locator("#connection")).to_contain_text(answer)
                assert await page.evaluate("sessionStorage.length") == 0
            await page.fill("#token", TOKEN)
            await page.keyboard.press("Enter")
            await expect(page.locator("#instances")).to_contain_text("sim-0")
            await expect(page.locator("#token-form")).to_be_hidden()
            assert await page.evaluate("Object.values(sessionStorage)") == [TOKEN]
            assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
            assert TOKEN not in await page.content()
            assert TOKEN not in page.url
            assert all("401" in error for error in seen.errors), seen.errors

    on_a_loop(scenario())


def test_a_gateway_that_goes_away_is_said_to_be_away_until_it_is_back(fleet):
    async def scenario() -> None:
        async with simulated(fleet, 1) as shown, open_page(shown.url, token=TOKEN) as seen:
            page = seen.page
            await expect(page.locator("#connection")).to_have_text("Live, each second")
            admin_port = shown.fleet.admin_port
            await shown.fleet.gateway.stop()
            await expect(page.locator("#connection")).to_contain_text("the gateway does not answer. Trying again")
            await expect(page.locator("#instances")).to_contain_text("sim-0")  # what was last known
            async with fleet(answer_hello) as again:
                admin = AdminService(again.gateway, HttpLimits(), time.monotonic, TOKEN)
                await admin.start("127.0.0.1", admin_port)
                await expect(page.locator("#connection")).to_have_text("Live, each second")
                await expect(page.locator("#instances")).to_contain_text("i0")
                await expect(page.locator("#rings .arc")).to_have_count(2)
                admin.stop()

    on_a_loop(scenario())


def test_what_is_not_there_is_said_in_words(fleet):
    async def scenario() -> None:
        async with simulated(fleet, 0) as shown, open_page(shown.url, token=TOKEN) as seen:
            for where, words in (
                ("#instances", "No instance: none has joined this pool yet."),
                ("#rings", "No instance is on the rings."),
                ("#prefixes", "No request yet."),
                ("#choices", "No request was sent to an instance in this time."),
                ("#ttft-hint", "No first token in this time."),
                ("#moves", "No request has moved yet"),
            ):
                await expect(seen.page.locator(where)).to_contain_text(words)
            assert seen.errors == []

    on_a_loop(scenario())


def test_names_are_text_whatever_they_look_like_and_pools_and_gateways_can_be_told_apart(fleet):
    hostile = "<img src=x onerror=alert(1)>"

    async def scenario() -> None:
        async with fleet(answer_hello, answer_hello, pools=("", "code")) as f:
            first = f.member(0, instance_id=hostile, model_cards=CARDS)
            f.apply(first, f.member(1, pool="code", model_cards=({"id": "coder"},)))
            peers = ("gateway", "127.0.0.1:1"), ("other", "127.0.0.1:2"), ("third", "javascript:alert(1)//:1")
            f.gateway.note_fleet(tuple(GatewayState(name, 1, admin, age_s=0.1) for name, admin in peers))
            async with open_page(f"http://127.0.0.1:{f.admin_port}/ui", token=TOKEN) as seen:
                page = seen.page
                await expect(page.locator("#instances")).to_contain_text(hostile)
                assert await page.locator("img").count() == 0
                await expect(page.locator("#gateways")).to_contain_text("gateway (this one)")
                await expect(page.locator("#gateways-hint")).to_contain_text("as gateway sees it")
                links = page.locator("#gateways a")
                assert [await link.get_attribute("href") for link in await links.all()] == ["http://127.0.0.1:2/ui"]
                await page.select_option("#pool", "code")
                await expect(page.locator("#instances")).to_contain_text("i1")
                await expect(page.locator("#instances")).not_to_contain_text(hostile)
                assert (seen.errors, seen.elsewhere) == ([], [])

    on_a_loop(scenario())
