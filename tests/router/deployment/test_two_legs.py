"""Servers that prefill and servers that decode behind a whole deployment, killed under load."""

import json
import re
import signal
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, deployed, free_port
from tests.instances.conftest import JSON_HEADERS, SimProcess

CLIENTS = 12
TOKENS = 120  # of an answer
PROMPT = "A long question that nobody has asked before. " * 120


@pytest.fixture
def connector() -> str:
    return "nixl"


@pytest.fixture
def bootstrap_ports() -> list[int]:
    """Of those that prefill, where the connector is one that asks there."""
    return [free_port(), free_port()]


@pytest.fixture
def sims(connector, bootstrap_ports):
    """Two that prefill, and two that decode."""
    flags = ("--prefill-tokens-per-s", "20000", "--kv-connector", connector)
    processes = [SimProcess("--role", "prefill", *flags, "--bootstrap-port", str(port)) for port in bootstrap_ports]
    processes += [SimProcess("--role", "decode", *flags) for _ in range(2)]
    yield processes
    for process in processes:
        process.clean_up()


@pytest.fixture
def deployment(sims, connector, bootstrap_ports, tmp_path):
    instances = [
        *(
            {"url": url_of(sim), "role": "prefill"} | ({"bootstrap_port": port} if connector == "mooncake" else {})
            for sim, port in zip(sims, bootstrap_ports, strict=False)
        ),
        *({"url": url_of(sim), "role": "decode"} for sim in sims[2:]),
    ]
    config = json.dumps({"instances": instances, "kv_transfer": {"connector": connector}})
    with deployed(directory=tmp_path, config=config) as deployment:
        await_that(lambda: deployment.ready_count() == len(sims), "all servers are ready")
        yield deployment


def url_of(sim: SimProcess) -> str:
    return f"http://127.0.0.1:{sim.port}"


def counted(deployment: Deployment, metric: str) -> int:
    found = re.search(rf"^{re.escape(metric)} (\S+)$", deployment.metrics(), re.MULTILINE)
    assert found, metric
    return int(float(found[1]))


def test_each_request_is_computed_by_one_server_and_answered_by_another(deployment, sims):
    client = deployment.client()
    prefilled, answered = set(), set()
    for number in range(6):
        messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
        answer = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=4)
        assert answer.parse().usage.prompt_tokens_details.cached_tokens == 0, "as the prefill leg found it"
        prefilled.add(answer.headers["x-dualmap-prefill-instance"])
        answered.add(answer.headers["x-dualmap-instance"])
    addresses = [f"127.0.0.1:{sim.port}" for sim in sims]
    assert prefilled <= set(addresses[:2])
    assert answered <= set(addresses[2:])
    assert counted(deployment, 'dualmap_prefill_handoffs_total{told="where"}') == 6
    assert counted(deployment, 'dualmap_prefill_handoffs_total{told="nothing"}') == 0
    assert {member["role"] for member in deployment.members().values()} == {"prefill", "decode"}


USAGE = {"stream_options": {"include_usage": True}}
APIS = {
    "/v1/completions": {"prompt": f"1 {PROMPT}", "max_tokens": 4} | USAGE,
    "/v1/chat/completions": {"messages": [{"role": "user", "content": f"2 {PROMPT}"}], "max_tokens": 4} | USAGE,
    "/v1/messages": {"messages": [{"role": "user", "content": f"3 {PROMPT}"}], "max_tokens": 4},
    "/v1/responses": {"input": f"4 {PROMPT}", "max_output_tokens": 4},
    "/inference/v1/generate": {"token_ids": [7] * 2000, "sampling_params": {"max_tokens": 4}} | USAGE,
}


def cached_tokens(answer: bytes) -> int:
    """As its usage says last, in the words of any API."""
    return int(re.findall(rb'"(?:cached_tokens|cache_read_input_tokens)": ?(\d+)', answer)[-1])


@pytest.mark.parametrize("connector", ["nixl", pytest.param("mooncake", marks=pytest.mark.slow)])
def test_streams_of_each_api_tell_the_cached_tokens_of_who_computed_the_prompt(deployment, sims):
    for path, body in APIS.items():
        plain = {"model": "sim"} | {name: value for name, value in body.items() if name not in USAGE}
        known = {cached_tokens(sim.request("POST", path, plain)[2]) for sim in sims[:2] for _ in range(2)}
        assert min(known) == 0, "at first it is new to both"
        request = json.dumps({"model": "sim", "stream": True} | body).encode()
        url = f"http://127.0.0.1:{deployment.port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, request, JSON_HEADERS), timeout=WAIT_S) as stream:
            assert stream.headers["x-dualmap-prefill-instance"]
            assert cached_tokens(stream.read()) == max(known)
    assert counted(deployment, 'dualmap_prefill_handoffs_total{told="where"}') == len(APIS)


@pytest.mark.parametrize("connector", ["mooncake"])
def test_an_engine_that_starts_anew_is_asked_for_by_its_new_name(deployment, sims, bootstrap_ports):
    client, prefill = deployment.client(), sims[0]

    def ask(number: int) -> str:
        """Who has computed the prompt."""
        messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
        raw = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=4)
        answer = raw.parse()
        _, alone = sims[2].post("/v1/chat/completions", {"model": "sim", "messages": messages, "max_tokens": 4})
        assert answer.choices[0].message.content == alone["choices"][0]["message"]["content"]
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        return raw.headers["x-dualmap-prefill-instance"]

    address = f"127.0.0.1:{prefill.port}"
    numbers = iter(range(1000))
    await_that(lambda: ask(next(numbers)) == address, "it computes")
    prefill.process.kill()
    prefill.process.wait()
    again = ("--port", str(prefill.port), "--role", "prefill", "--kv-connector", "mooncake")
    sims.append(SimProcess(*again, "--bootstrap-port", str(bootstrap_ports[0])))
    await_that(lambda: ask(next(numbers)) == address, "it computes again")
    assert counted(deployment, 'dualmap_prefill_handoffs_total{told="nothing"}') == 0


@pytest.mark.parametrize(
    ("connector", "victim"),
    [
        pytest.param("nixl", 0, id="prefill", marks=pytest.mark.slow),
        pytest.param("nixl", 2, id="decode"),
        pytest.param("mooncake", 0, id="prefill, mooncake", marks=pytest.mark.slow),
    ],
)
def test_no_request_is_lost_or_cut_off_when_a_server_of_either_leg_is_killed(deployment, sims, victim):
    begun = threading.Semaphore(0)
    stop = threading.Event()

    def ask(number: int) -> list[str]:
        """Asks again and again; says how each answer ended."""
        ends, turn = [], 0
        while not stop.is_set():
            turn += 1
            messages = [{"role": "user", "content": f"{number}, {turn}: {PROMPT}"}]
            options = {"max_tokens": TOKENS, "stream": True, "stream_options": {"include_usage": True}}
            options["extra_body"] = {"ignore_eos": True}
            try:
                chunks = list(client.chat.completions.create(model="sim", messages=messages, **options))
            except openai.APIError as error:
                ends.append(f"error: {error.message}")
                continue
            finally:
                begun.release()
            reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
            ends.append(f"{reasons} {chunks[-1].usage.completion_tokens}")
        return ends

    with deployment.client() as client, ThreadPoolExecutor(CLIENTS) as clients:
        asked = [clients.submit(ask, number) for number in range(CLIENTS)]
        for _ in range(2 * CLIENTS):
            assert begun.acquire(timeout=WAIT_S)
        sims[victim].process.kill()
        for _ in range(3 * CLIENTS):
            assert begun.acquire(timeout=WAIT_S)
        stop.set()
        ends = [end for one in asked for end in one.result(timeout=WAIT_S)]
    assert set(ends) == {f"['length'] {TOKENS}"}
    assert len(ends) >= 5 * CLIENTS


def test_a_rollout_of_both_roles_pairs_no_two_revisions_and_loses_nothing(sims, tmp_path):
    urls = [f"http://127.0.0.1:{sim.port}" for sim in sims]
    p1, p2, d1, d2 = (url.removeprefix("http://") for url in urls)
    revisions = dict(zip((p1, p2, d1, d2), ("old", "new", "old", "new"), strict=True))

    def named(**roles: str) -> str:
        ids = {"p1": p1, "p2": p2, "d1": d1, "d2": d2}
        settings = [
            {"url": f"http://{ids[name]}", "role": role, "revision": revisions[ids[name]]}
            for name, role in roles.items()
        ]
        return json.dumps({"instances": settings})

    stop = threading.Event()
    pairs: list[tuple[str | None, str | None]] = []

    def ask(number: int) -> list[str]:
        """Asks again and again; what failed."""
        failed, turn = [], 0
        while not stop.is_set():
            turn += 1
            messages = [{"role": "user", "content": f"{number}, {turn}: {PROMPT}"}]
            try:
                answer = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=9)
            except openai.APIError as error:
                failed.append(error.message)
                continue
            pairs.append((answer.headers.get("x-dualmap-prefill-instance"), answer.headers["x-dualmap-instance"]))
        return failed

    def seen(pair: tuple[str | None, str]) -> None:
        """Answers that come from now on, until one is by these two."""
        done = len(pairs)
        await_that(lambda: pair in pairs[done:], f"answers by {pair}")

    both, decode = {"p1": "prefill", "d1": "decode"}, {"p2": "prefill", "d2": "decode"}
    with (
        deployed(directory=tmp_path, config=named(**both)) as deployment,
        deployment.client() as client,
        ThreadPoolExecutor(3) as clients,
    ):

        def become(**roles: str) -> None:
            (tmp_path / "dualmap.yaml").write_text(named(**roles))
            deployment.process.send_signal(signal.SIGHUP)
            expected = {{"p1": p1, "p2": p2, "d1": d1, "d2": d2}[name]: role for name, role in roles.items()}

            def there() -> bool:
                members = deployment.members()
                ready = {i: m["role"] for i, m in members.items() if m["state"] == "ready"}
                return ready == expected and len(members) == len(expected)

            await_that(there, f"{roles} are there")

        asked = [clients.submit(ask, number) for number in range(3)]
        seen((p1, d1))
        become(**both, p2="prefill")
        seen((p1, d1))
        become(**both, **decode)
        seen((p2, d2))
        become(**decode)
        seen((p2, d2))
        become(p2="decode", d2="decode")
        seen((None, p2))
        stop.set()
        assert [one.result(timeout=WAIT_S) for one in asked] == [[], [], []]
    split = {pair for pair in pairs if pair[0] is not None}
    assert split == {(p1, d1), (p2, d2)}
