"""The table of lenient bodies says what vLLM does, and gateways in front of it change nothing of that."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dualmap.router.access.api_keys import hash_key
from tests.deployment import deployed
from tests.vllm.conftest import VllmServer
from tests.vllm.lenient_bodies import LENIENT_BODIES, LenientBody
from tests.vllm.test_agreement import Answer, ask

pytestmark = pytest.mark.vllm

KEY = "dm-key-of-a"
FIELDS_OF_A_BODY = re.compile(rb"<dict of \d+ items>")  # the salt that keeps tenants apart is one more


@pytest.fixture(scope="module")
def gateways(everyday_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Their ports: one as it comes, and one that asks for keys and keeps tenants apart."""
    directories = {name: tmp_path_factory.mktemp(name) for name in ("open", "keyed")}
    keys = directories["keyed"] / "keys.yaml"
    keys.write_text(json.dumps({"keys": [{"sha256": hash_key(KEY.encode()), "tenant": "a"}]}))
    settings = {"open": {}, "keyed": {"api_keys_file": str(keys)}}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                deployed(
                    directory=directories[name],
                    config=json.dumps({"instances": [everyday_server.url], "gateway": gateway}),
                )
            ).port
            for name, gateway in settings.items()
        }


def told(answer: Answer) -> tuple[int, str, object]:
    """What a client is told. Of what is not there only how it is called: the gateway, which says so by itself, gives
    errors of messages the types that Anthropic's documents have, and names no other models."""
    words: object = FIELDS_OF_A_BODY.sub(b"", answer.body)
    if answer.status == 404:
        words = answer.json["error"]["message"].partition(" Valid aliases:")[0]
    elif answer.status == 200:
        words = None
    return answer.status, answer.headers["content-type"], words


@pytest.mark.parametrize("row", LENIENT_BODIES, ids=lambda row: f"{row.path}: {row.name}")
def test_vllm_and_what_stands_in_front_of_it_do_what_the_table_says(
    row: LenientBody, everyday_server: VllmServer, gateways: dict[str, int]
) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    alone = ask(everyday_server.port, "POST", row.path, row.body, row.content_type)
    assert alone.status == row.status, alone.body
    for port in gateways.values():
        assert told(ask(port, "POST", row.path, row.body, row.content_type, headers)) == told(alone)
