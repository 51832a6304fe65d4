"""Clients that nobody here wrote, through the gateway in front of two vLLM servers that `dualmap up` has started."""

import json
import os
import shutil
import signal
import subprocess
from itertools import pairwise

import openai
import pytest

from dualmap.loadtest.traces.synth import Lognormal, SynthConfig, synthesise
from dualmap.loadtest.traces.trace import write_trace
from tests.clients.conftest import clients
from tests.conftest import await_that, session_of
from tests.deployment import Deployment
from tests.vllm.conftest import ENV, START_TIMEOUT_S, TINY, VLLM, up

pytestmark = pytest.mark.vllm

BENCH_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def deployment(two_replicas: Deployment) -> Deployment:
    return two_replicas


@pytest.fixture(scope="module")
def client(deployment) -> openai.OpenAI:
    return deployment.client()


MESSAGES = [{"role": "system", "content": "Be brief. " * 100}, {"role": "user", "content": "Grüße 🙂"}]
OPTIONS = {"model": "tiny", "max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}


def test_a_stream_says_what_the_plain_answer_says(client):
    plain = client.chat.completions.create(messages=MESSAGES, **OPTIONS)
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **OPTIONS))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert plain.usage.completion_tokens == 12


@pytest.mark.parametrize(
    ("asked", "shown"), [({}, 0), ({"include_usage": True}, 1), ({"include_usage": False}, 0)], ids=str
)
def test_usage_is_shown_to_clients_that_asked_for_it_and_to_no_other(client, asked, shown):
    options = {"stream_options": asked} if asked else {}
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **options, **OPTIONS))
    assert sum(chunk.usage is not None for chunk in chunks) == shown
    assert sum(not chunk.choices for chunk in chunks) == shown


def test_the_gateway_learns_from_usage_that_it_hides(client, deployment):
    def cached_tokens() -> float:
        lines = deployment.metrics().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("dualmap_cached_prompt_tokens_total"))

    before = cached_tokens()
    for _ in range(2):
        list(client.chat.completions.create(messages=MESSAGES, stream=True, **OPTIONS))
    assert cached_tokens() > before


def test_completions_take_texts_and_token_ids(client):
    for prompt in ("one two", list(range(40, 90))):
        answer = client.completions.create(prompt=prompt, **OPTIONS)
        assert answer.usage.completion_tokens == 12
        chunks = list(client.completions.create(prompt=prompt, stream=True, **OPTIONS))
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == answer.choices[0].text


def test_several_choices_come_back(client):
    answer = client.chat.completions.create(messages=MESSAGES, n=3, **{**OPTIONS, "temperature": 1.0})
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]


def test_models_are_listed_and_errors_are_those_of_openai(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**OPTIONS, "model": "no-such"}, messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{**OPTIONS, "max_tokens": -1}, messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(
            **{**OPTIONS, "stream": True}, messages=[{"role": "user", "content": "a " * 9000}]
        )


def test_status_shows_the_signals_of_each_instance(client, deployment):
    client.chat.completions.create(messages=MESSAGES, **OPTIONS)
    assert set(deployment.members()) == {"vllm-0", "vllm-1"}

    def told() -> bool:
        signals = [member["signals"] for member in deployment.members().values()]
        fresh = all("metrics" in each and each["metrics"]["age_s"] < 10 for each in signals)
        return fresh and any("usage" in each for each in signals)

    await_that(told, "each has told its load, and one its usage")


@pytest.fixture(scope="module")
def start_client(deployment, tmp_path_factory):
    """The clients of tests/clients, each in its own environment."""
    with clients(f"http://127.0.0.1:{deployment.port}", "none", tmp_path_factory.mktemp("clients")) as start:
        yield start


def stays_and_finds_its_cache(turns: list[dict], tokens: str) -> bool:
    """Whole blocks of 32 tokens of the turn before are found."""
    found = (after["cached_tokens"] > before[tokens] - 64 for before, after in pairwise(turns))
    return len({turn["instance"] for turn in turns}) == 1 and all(found)


def test_openais_client_calls_tools_and_gets_what_a_schema_wants(start_client):
    client = start_client("openai_calls.py")
    called = client("tool_call", model="tiny")
    assert called["whole"][0] == called["streamed"][0] == "get_weather"
    for _, arguments in (called["whole"], called["streamed"]):
        assert json.loads(arguments)["city"] in ("Ulm", "Bonn")
    assert called["tokens_after"] > 0
    assert json.loads(client("structured", model="tiny")).keys() == {"yes"}


def test_an_agent_over_responses_stays_on_its_server(start_client):
    client = start_client("responses_calls.py")
    for call in ("agent_turns", "follow_up_turns"):
        for name in ("ada", "ben", "cleo"):
            assert stays_and_finds_its_cache(client(call, name=name, turns=4, model="tiny"), "input_tokens")


def test_responses_are_stored_cancelled_and_call_tools(start_client):
    """The model is so small that vLLM may have made all tokens before it sends the answer that says it begins."""
    client = start_client("responses_calls.py")
    for number in range(3):
        assert client("stored", text=f"Keep {number}.", model="tiny")["same"]
    await_that(
        lambda: client("cancel", text="Write books.", model="tiny")[1] == "cancelled", "one is cancelled in time"
    )
    assert {error["status"] for error in client("missing", response_id="resp_never", model="tiny")} == {404}
    name, arguments, pieces = client("tool_call", model="tiny")
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in ("Ulm", "Bonn")
    assert pieces == arguments


def test_an_agent_over_messages_stays_on_its_server(start_client):
    client = start_client("anthropic_calls.py")
    for name in ("ada", "ben", "cleo"):
        turns = client("agent_turns", name=name, turns=4, model="tiny")
        for turn in turns:
            turn["prompt_tokens"] = turn["input_tokens"] + turn["cached_tokens"]
        assert stays_and_finds_its_cache(turns, "prompt_tokens")


def test_anthropics_client_streams_counts_and_calls_tools(start_client):
    client = start_client("anthropic_calls.py")
    streamed = client("stream", text="Grüße", model="tiny")
    assert streamed["streamed"] == streamed["text"]
    assert streamed["output_tokens"] == 16
    counts = client("count_tokens", text="How many?", model="tiny")
    assert counts["counted"] == counts["used"]
    called = client("tool_call", model="tiny")
    assert (called["name"], called["stop_reason"]) == ("get_weather", "tool_use")
    assert called["input"]["city"] in ("Ulm", "Bonn")
    assert called["tokens_after"] > 0
    missing = client("message_error", model="no-such")
    assert missing["class"] == "NotFoundError"
    assert missing["body"]["type"] == "error"


def test_langchain_and_javascripts_client_call_tools_too(start_client):
    assert start_client("langchain_calls.py")("structured", model="tiny") in (True, False)
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    name, arguments = start_client("sdk_calls.mjs")("tool_call", model="tiny")
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in ("Ulm", "Bonn")


def bench(deployment, directory, *flags: str) -> dict:
    """`vllm bench serve` through the gateway; its result."""
    command = [
        *(str(VLLM), "bench", "serve", "--backend", "openai", "--base-url", f"http://127.0.0.1:{deployment.port}"),
        *("--model", "tiny", "--tokenizer", str(TINY), "--disable-tqdm", "--ignore-eos"),
        *("--save-result", "--result-dir", str(directory), "--result-filename", "result.json", *flags),
    ]
    done = subprocess.run(
        command, env={**os.environ, **ENV}, capture_output=True, text=True, timeout=BENCH_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((directory / "result.json").read_text())


def test_vllms_own_benchmark_with_repeated_prefixes(deployment, tmp_path):
    result = bench(
        deployment,
        tmp_path,
        *("--dataset-name", "prefix_repetition", "--num-prompts", "24", "--request-rate", "6"),
        *("--prefix-repetition-prefix-len", "512", "--prefix-repetition-suffix-len", "64"),
        *("--prefix-repetition-num-prefixes", "4", "--prefix-repetition-output-len", "8"),
    )
    assert (result["completed"], result["failed"]) == (24, 0)
    assert result["total_output_tokens"] == 24 * 8


@pytest.mark.release
def test_vllms_own_benchmark_with_a_timed_trace(deployment, tmp_path):
    config = SynthConfig(
        requests=24,
        qps=3.0,
        first_message=Lognormal(600, 0.5, 16, 2000),
        answer=Lognormal(8, 0.3, 2, 16),
        max_input_tokens=4000,
    )
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, synthesise(config))
    result = bench(
        deployment,
        tmp_path,
        *("--dataset-name", "timed_trace", "--dataset-path", str(trace), "--num-prompts", "24"),
        *("--timed-trace-chunk-hash-size", "512", "--timed-trace-sec-multiplier", "0.001", "--self-timed"),
    )
    assert (result["completed"], result["failed"]) == (24, 0)


@pytest.mark.release
def test_a_killed_replica_is_started_again_and_leaves_no_engine_behind(client, deployment):
    members = deployment.members()
    before = members["vllm-0"]
    known = {member["pid"] for member in members.values()}
    assert any("EngineCore" in command for command in session_of(before["pid"]).values())
    os.kill(before["pid"], signal.SIGKILL)
    for _ in range(8):
        client.chat.completions.create(messages=MESSAGES, **OPTIONS)
    await_that(lambda: not session_of(before["pid"]), "its engine is gone")

    def back() -> dict | None:
        """It is waited for, however slow the machine is."""
        members = deployment.members()
        assert set(members) == {"vllm-0", "vllm-1"}
        member = members["vllm-0"]
        return member if member["state"] == "ready" and member["pid"] not in known else None

    after = await_that(back, "it is ready again", START_TIMEOUT_S)
    assert after["incarnation"] > before["incarnation"]


def test_stopping_leaves_no_process(deployment):
    servers = [member["pid"] for member in deployment.members().values()]
    assert all(session_of(pid) for pid in servers)
    assert deployment.stop(signal.SIGTERM) == 0
    assert not any(session_of(pid) for pid in servers)


@pytest.mark.release
def test_a_model_that_cannot_be_served_is_said_with_the_cause(tmp_path):
    deployment = up(tmp_path, "--replicas", "1", engine_args=("--max-model-len", "1000000"))
    try:
        assert deployment.process.wait(timeout=START_TIMEOUT_S) == 1
        deployment.await_ended()
        output = "".join(deployment.output)
        assert "vllm-0 did not start" in output
        assert "max_model_len" in output
        assert "Traceback" not in output
    finally:
        deployment.clean_up()
