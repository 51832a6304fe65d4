"""The simulated server takes and refuses what vLLM does."""

import json
from collections.abc import Iterator

import pytest

from tests.instances.conftest import SimProcess
from tests.vllm.lenient_bodies import COMPLETION, LENIENT_BODIES, MODEL, LenientBody, fields


@pytest.fixture(scope="module")
def tiny() -> Iterator[SimProcess]:
    process = SimProcess("--model", MODEL, "--max-model-len", "8192", "--prefill-tokens-per-s", "1000000")
    yield process
    process.clean_up()


@pytest.mark.parametrize("row", LENIENT_BODIES, ids=lambda row: f"{row.path}: {row.name}")
def test_the_simulated_server_is_as_lenient_as_vllm(row: LenientBody, tiny: SimProcess) -> None:
    headers = {} if row.content_type is None else {"content-type": row.content_type}
    status, _, answer = tiny.request("POST", row.path, row.body, headers)
    assert status == row.status, answer
    assert status == 200 or "error" in json.loads(answer)


@pytest.mark.parametrize(
    ("strict", "lenient"),
    [
        ({"max_tokens": 5}, {"max_tokens": " 5.0"}),
        ({"max_tokens": 5, "ignore_eos": True}, {"max_tokens": 5.0, "ignore_eos": "on"}),
        ({"max_tokens": 3, "n": 2}, {"max_tokens": 3, "n": "2"}),
        ({"max_tokens": 1}, {"max_tokens": True}),
    ],
)
def test_what_is_converted_means_the_same(tiny: SimProcess, strict: dict, lenient: dict) -> None:
    answers = [
        json.loads(tiny.request("POST", COMPLETION, fields(COMPLETION, **each))[2]) for each in (strict, lenient)
    ]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"]["completion_tokens"] == answers[1]["usage"]["completion_tokens"]
