"""The admin port: metrics, health, status."""

import time
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dualmap.router.gateway.admin import AdminService, Observed
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import unauthorized
from dualmap.scheduler import SchedulerConfig
from tests.router.conftest import CHAT, STREAM, Conversation


async def scrape(f):
    client = await f.client(f.admin_port)
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [s for family in text_string_to_metric_families(answer.body.decode()) for s in family.samples]
    return {(s.name, *sorted(s.labels.values())): s.value for s in samples}


async def stream(conversation: Conversation) -> None:
    await conversation.begin_stream()
    for _ in range(3):
        await conversation.send_event("{}")
    usage = '{"usage":{"prompt_tokens":40,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":32}}}'
    await conversation.send_event(usage)
    await conversation.send_event("[DONE]")
    await conversation.end_stream()


async def test_metrics_tell_what_happened(fleet):
    async with fleet(stream) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", STREAM)
        await client.post("/v1/chat/completions", CHAT, "x-dualmap-timeout-ms: soon\r\n")
        await client.send(b"garbage\r\n\r\n")
        await client.answer()
        samples = await scrape(f)
        assert samples["dualmap_requests_total", "ok"] == 1
        assert samples["dualmap_requests_total", "client_error"] == 2
        assert samples["dualmap_requests_total", "rejected_no_instance"] == 0
        assert samples["dualmap_time_to_first_token_seconds_count", "", ""] == 1
        assert samples["dualmap_time_to_first_token_seconds_bucket", "", "", "+Inf"] == 1
        assert samples["dualmap_time_to_first_token_error_seconds_count", "", ""] == 1
        assert samples["dualmap_queue_seconds_count", "", ""] == 1
        assert samples["dualmap_end_to_end_seconds_count", "", ""] == 1
        assert samples["dualmap_prompt_tokens_total",] == 40
        assert samples["dualmap_cached_prompt_tokens_total",] == 32
        assert samples["dualmap_output_tokens_total",] == 3
        assert samples["dualmap_relayed_pieces_total",] == 5
        assert sum(value for key, value in samples.items() if key[0] == "dualmap_choices_total") == 1
        assert samples["dualmap_members", "", "", "ready"] == 1
        assert samples["dualmap_members", "", "", "lost"] == 0
        assert samples["dualmap_membership_epoch",] == 1
        assert samples["dualmap_instance_running_requests", "", "i0"] == 0
        assert samples["dualmap_requests_in_flight",] == 0
        assert samples["dualmap_moves_applied_total",] == 0


async def test_answers_are_counted_by_the_pace_of_their_tokens(fleet):
    async with fleet(stream, config=SchedulerConfig(tpot_slo_s=60.0)) as f:
        client = await f.client()
        for headers in ("", "", "x-dualmap-tpot-slo-ms: 1e-9\r\n"):
            await client.post("/v1/chat/completions", STREAM, headers)
        samples = await scrape(f)
        assert samples["dualmap_paced_answers_total", "", "kept"] == 2
        assert samples["dualmap_paced_answers_total", "", "missed"] == 1
        assert samples["dualmap_output_token_objective_seconds", ""] == 60
        assert samples["dualmap_time_per_output_token_seconds_count", "", ""] == 3
        assert samples["dualmap_instance_output_token_seconds", "", "i0"] == 0


async def test_the_outcome_of_an_error_of_the_instance_has_its_own_label(fleet):
    async def fail(conversation: Conversation) -> None:
        await conversation.send_json({}, "500 Internal Server Error")

    async with fleet(fail) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT)
        samples = await scrape(f)
        assert samples["dualmap_requests_total", "instance_error"] == 1
        assert samples["dualmap_end_to_end_seconds_count", "", ""] == 0


async def test_status_shows_members_and_load_to_who_has_the_token(fleet):
    async with fleet(cards=({"id": "tiny"},)) as f:
        client = await f.client(f.admin_port)
        answer = await client.get("/admin/status", "authorization: Bearer secret\r\n")
        status = answer.json
        assert status["gateway_id"] == "gateway"
        assert status["policy"] == "dualmap"
        assert status["epoch"] == 1
        assert status["in_flight"] == 0
        (row,) = status["members"]
        assert row["instance_id"] == "i0"
        assert row["state"] == "ready"
        assert row["models"] == ["tiny"]
        assert row["waiting"] == row["running"] == 0


@pytest.mark.parametrize("headers", ["", "authorization: Bearer wrong\r\n", "authorization: secret\r\n"])
async def test_status_is_refused_without_the_token(fleet, headers):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        answer = await client.get("/admin/status", headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.error["type"] == "AuthenticationError"
        assert (await client.get("/health")).status == 200


async def test_a_token_may_come_as_bearer_in_any_case(fleet):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        assert (await client.get("/admin/status", "Authorization: BEARER  secret\r\n")).status == 200


def test_an_empty_token_lets_nobody_in():
    service = AdminService(cast(Observed, None), HttpLimits(), time.monotonic, token="")
    request = HttpRequest(0.0)
    request.take_target("GET", b"/admin/status")
    assert service.check_head(request) == unauthorized()


async def test_the_admin_port_serves_nothing_else(fleet):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        assert (await client.get("/v1/models")).status == 404
        assert (await client.post("/metrics", {})).status == 405


@pytest.mark.parametrize("path", ["/health", "/metrics", "/ui"])
async def test_what_can_be_got_can_be_asked_for_by_its_head(fleet, path):
    async with fleet() as f:
        client = await f.client(f.admin_port)
        await client.send(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = await client.answer_head()
        assert head.status == 200
        assert int(head.headers["content-length"]) > 0
        assert (await client.get(path)).status == 200  # on the same connection: no body came before


async def test_the_clients_port_serves_no_metrics(fleet):
    async with fleet() as f:
        client = await f.client()
        assert (await client.get("/metrics")).status == 404
        assert (await client.get("/admin/status", "authorization: Bearer secret\r\n")).status == 404
