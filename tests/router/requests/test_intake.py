"""What headers tell of a request: whose it is, and how long its client waits."""

import pytest

from dualmap.router.apis.api import Api
from dualmap.router.apis.chat import CHAT
from dualmap.router.apis.other import OTHER
from dualmap.router.http.http_request import NOTED, HttpRequest
from dualmap.router.http.openai_errors import RequestRefusedError
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.asked import Arrived
from dualmap.router.requests.intake import MAX_TENANT_BYTES
from dualmap.scheduler import Scheduler, SchedulerConfig
from dualmap.scheduler.request import Request

BODY = b'{"model":"m","priority":%d,"prompt_cache_key":"%b","messages":[{"role":"user","content":"hi"}]}'


def taken_in(api: Api = CHAT, priority: int = 0, key: bytes = b"", **headers: bytes) -> Request:
    http = HttpRequest(0.0)
    http.fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    assert http.fields.keys() <= NOTED
    admission = Admission({"": Scheduler(SchedulerConfig())}, 512, lambda: 0.0)
    arrived = Arrived(id="r", request_id=b"r", http=http, api=api, body=BODY % (priority, key), at=0.0)
    return admission.admit(arrived).request


@pytest.mark.parametrize("api", [CHAT, OTHER])
def test_a_tenant_is_who_the_header_says(api: Api):
    assert taken_in(api, x_dualmap_tenant=b"team-a", authorization=b"Bearer sk-1").tenant == "team-a"


def test_without_the_header_the_same_key_is_the_same_tenant():
    first, again, other = (
        taken_in(authorization=key).tenant for key in (b"Bearer sk-1", b"bearer  sk-1", b"Bearer sk-2")
    )
    assert first == again != other
    assert first.startswith("key-")
    assert "sk-1" not in first


def test_a_key_is_the_same_tenant_wherever_the_client_puts_it():
    places = ({"authorization": b"Bearer sk-1"}, {"x_api_key": b"sk-1"}, {"api_key": b" sk-1"})
    assert len({taken_in(**headers).tenant for headers in places}) == 1


NO_KEYS = [{}, {"authorization": b"Basic dTpw"}, {"authorization": b"Bearer "}, {"x_api_key": b""}]


@pytest.mark.parametrize("headers", NO_KEYS)
def test_without_either_all_are_one_tenant(headers):
    assert taken_in(**headers).tenant == ""


@pytest.mark.parametrize("api", [CHAT, OTHER])
@pytest.mark.parametrize(("header", "timeout_s"), [({}, None), ({"x_dualmap_timeout_ms": b"1500"}, 1.5)])
def test_a_client_says_how_long_it_waits(api: Api, header, timeout_s):
    assert taken_in(api, **header).timeout_s == timeout_s


@pytest.mark.parametrize("api", [CHAT, OTHER])
@pytest.mark.parametrize("kind", ["ttft", "tpot"])
@pytest.mark.parametrize(
    ("values", "slo_s"),
    [((None, None), None), ((b"40", None), 0.04), ((None, b"0.5"), 0.0005), ((b"40", b"50"), 0.04)],
)
def test_a_client_says_its_objectives_under_either_name(api: Api, kind: str, values, slo_s):
    names = (f"x_dualmap_{kind}_slo_ms", f"x_llm_d_slo_{kind}_ms")
    headers = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    request = taken_in(api, **headers)
    assert {"ttft": request.ttft_slo_s, "tpot": request.tpot_slo_s} == {"ttft": None, "tpot": None, kind: slo_s}


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"inf", b"soon", b""])
@pytest.mark.parametrize("header", ["x_dualmap_timeout_ms", "x_dualmap_ttft_slo_ms", "x_dualmap_tpot_slo_ms"])
def test_times_that_are_none_are_refused(header: str, value: bytes):
    with pytest.raises(RequestRefusedError) as refused:
        taken_in(**{header: value})
    assert refused.value.error.status == 400
    assert refused.value.error.param == header.replace("_", "-")


def test_a_tenant_has_a_name_of_bounded_length():
    assert len(taken_in(x_dualmap_tenant=b"t" * MAX_TENANT_BYTES).tenant) == MAX_TENANT_BYTES
    with pytest.raises(RequestRefusedError):
        taken_in(x_dualmap_tenant=b"t" * (MAX_TENANT_BYTES + 1))


@pytest.mark.parametrize(("asked", "taken"), [(-3, -3), (100, 100), (1_700_000_000, 100), (-500, -100)])
def test_priorities_beyond_a_hundred_are_all_alike(asked: int, taken: int):
    assert taken_in(priority=asked).priority == taken


@pytest.mark.parametrize("header", ["x_claude_code_session_id", "x_session_affinity", "session_id", "x_session_id"])
def test_without_a_key_each_session_has_its_share(header):
    first, again, other = (taken_in(**{header: name}).tenant for name in (b"s-1", b"s-1", b"s-2"))
    assert first == again != other
    assert taken_in(**{header: b"s-1"}, authorization=b"Bearer sk-1").tenant.startswith("key-")


def test_a_session_is_a_hint_for_prompts_alone():
    first, again, other = (taken_in(x_session_id=name).session for name in (b"s-1", b"s-1", b"s-2"))
    assert first == again != other
    assert 0 not in (first, other)
    assert taken_in().session == 0
    assert taken_in(OTHER, x_session_id=b"s-1").session == 0  # nothing of it is kept


def test_what_says_most_of_a_session_counts():
    body = b"other"
    by_body = taken_in(key=body).session
    assert taken_in(key=body, x_session_id=b"", x_correlation_id=b"s-1", x_user_id=b"u-1").session == by_body
    assert taken_in(key=body, x_session_id=b"s-1").session == taken_in(x_session_id=b"s-1").session != by_body
    wider = [taken_in(x_correlation_id=b"s-1", x_user_id=b"u-1"), taken_in(x_user_id=b"u-1"), taken_in(x_user_id=b"")]
    assert len({request.session for request in wider}) == 3
    assert wider[2].session == 0


@pytest.mark.parametrize("value", [b"7", b"7.0"])
def test_a_priority_may_stand_in_a_header(value):
    assert taken_in(OTHER, x_vllm_priority=value).priority == 7
