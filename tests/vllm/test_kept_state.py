"""What two vLLM servers keep: responses that the next turn goes on from, and adapters that are loaded in a run."""

import json
import urllib.error
import urllib.request

import openai
import pytest

from tests.deployment import Deployment
from tests.vllm.test_lora import write_adapter

pytestmark = [pytest.mark.vllm, pytest.mark.release]

SESSIONS = 6


@pytest.fixture(scope="module")
def deployment(two_replicas: Deployment) -> Deployment:
    write_adapter(two_replicas.directory / "sql", 0)
    return two_replicas


def post(url: str, body: dict[str, object]) -> tuple[int, str]:
    """Status and text of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_turn_goes_on_where_the_one_before_is_kept(deployment):
    client = deployment.client()
    instances = set()
    for number in range(SESSIONS):
        first = client.responses.with_raw_response.create(model="tiny", input=f"Say {number}.", max_output_tokens=8)
        made, home = first.parse(), first.headers["x-dualmap-instance"]
        instances.add(home)
        found = client.responses.with_raw_response.retrieve(made.id)
        assert (found.parse().id, found.headers["x-dualmap-instance"]) == (made.id, home)
        options = {"model": "tiny", "input": "Go on.", "previous_response_id": made.id, "max_output_tokens": 8}
        again = client.responses.with_raw_response.create(**options)
        assert again.headers["x-dualmap-instance"] == home
        events = list(client.responses.create(stream=True, **options))
        assert events[0].type == "response.created"
        assert client.responses.retrieve(events[0].response.id).previous_response_id == made.id
    assert len(instances) == 2
    with pytest.raises(openai.NotFoundError, match="resp_never"):
        client.responses.retrieve("resp_never")


def test_an_adapter_is_loaded_on_both_or_on_none(deployment):
    url = f"http://127.0.0.1:{deployment.port}/v1"
    servers = [f"http://{member['address']}" for member in deployment.members().values()]
    load = {"lora_name": "sql", "lora_path": str(deployment.directory / "sql")}
    status, said = post(f"{url}/load_lora_adapter", load | {"lora_path": "/nowhere"})
    assert (status, "/nowhere" in said) == (404, True)

    assert post(f"{servers[1]}/v1/load_lora_adapter", load)[0] == 200  # by somebody else, on one of them
    status, said = post(f"{url}/load_lora_adapter", load)
    assert (status, "already been loaded" in said) == (400, True)
    assert post(f"{servers[0]}/v1/unload_lora_adapter", {"lora_name": "sql"})[0] == 404
    assert post(f"{servers[1]}/v1/unload_lora_adapter", {"lora_name": "sql"})[0] == 200

    assert post(f"{url}/load_lora_adapter", load)[0] == 200
    client = deployment.client()
    assert {card.id for card in client.models.list()} == {"tiny", "sql"}
    ask = {"model": "sql", "prompt": "One is", "max_tokens": 2}
    assert [post(f"{place}/completions", ask)[0] for place in (url, *(f"{s}/v1" for s in servers))] == [200] * 3
    assert post(f"{url}/unload_lora_adapter", {"lora_name": "sql"})[0] == 200
    assert {card.id for card in client.models.list()} == {"tiny"}
    assert [post(f"{place}/completions", ask)[0] for place in (url, *(f"{s}/v1" for s in servers))] == [404] * 3
