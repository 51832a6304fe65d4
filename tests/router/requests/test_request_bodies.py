"""What becomes of what a body says, and of bodies that say nothing."""

import pytest

from tests.router.conftest import CHAT

BODIES_OF_NO_REQUEST = {
    "empty": b"",
    "not json": b"hello",
    "cut off": b'{"model":"tiny","messages":[{"role":"us',
    "not utf-8": b'{"model":"\xff","messages":[{}]}',
    "an array": b"[]",
    "no messages": b'{"model":"tiny"}',
    "messages empty": b'{"model":"tiny","messages":[]}',
    "messages is a string": b'{"model":"tiny","messages":"hi"}',
    "messages of numbers": b'{"model":"tiny","messages":[1]}',
    "prompt is an object": b'{"model":"tiny","prompt":{}}',
    "nested deeply": b'{"model":"tiny","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
}
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/inference/v1/generate"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", BODIES_OF_NO_REQUEST.values(), ids=BODIES_OF_NO_REQUEST)
async def test_what_is_wrong_with_a_body_is_said_by_its_instance(fleet, path, body):
    async def refuse(conversation):
        await conversation.send_json({"error": {"message": "Field required", "code": 400}}, "400 Bad Request")

    async with fleet(refuse, cards=({"id": "tiny"},)) as f:
        client = await f.client()
        answer = await client.post(path, body)
        assert (answer.status, answer.json["error"]["message"]) == (400, "Field required")
        assert f.instances[0].received[-1].body == body
        f.check_books_are_empty()


@pytest.mark.parametrize("value", ["abc", "-5", "0", "nan", "inf", ""])
@pytest.mark.parametrize("header", ["x-dualmap-ttft-slo-ms", "x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"])
async def test_a_bad_objective_gets_400(fleet, header, value):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, f"{header}: {value}\r\n")
        assert answer.status == 400
        assert answer.error["param"] == header


@pytest.fixture
def overheard():
    """Starts to collect the requests that a gateway's core sends out."""

    def listen(gateway):
        requests = []
        dispatched = gateway.driver.dispatched

        def overhear(dispatch, driven):
            requests.append(driven.asked.request)
            dispatched(dispatch, driven)

        gateway.driver.dispatched = overhear
        return requests

    return listen


async def test_the_core_is_told_what_the_client_asked_for(fleet, overheard):
    async with fleet() as f:
        requests = overheard(f.gateway)
        client = await f.client()
        body = CHAT | {"max_completion_tokens": 7, "max_tokens": 9, "priority": -3, "stream": None}
        await client.post("/v1/chat/completions", body, "x-dualmap-ttft-slo-ms: 1500\r\nx-dualmap-tpot-slo-ms: 40\r\n")
        (request,) = requests
        assert request.max_output_tokens == 7
        assert request.priority == -3
        assert (request.ttft_slo_s, request.tpot_slo_s) == (1.5, 0.04)
        assert not request.streams
        assert len(request.blocks) == 1


async def test_the_length_of_a_token_is_learned_from_usage(fleet, overheard):
    async def answer(conversation):
        await conversation.send_json({"usage": {"prompt_tokens": len(conversation.request.json["prompt"]) // 2}})

    async with fleet(answer) as f:
        requests = overheard(f.gateway)
        client = await f.client()
        for _ in range(10):
            await client.post("/v1/completions", {"model": "tiny", "prompt": "x" * 100_000})
        assert [requests[0].prompt_tokens, requests[0].block_tokens] == [25_000, 512]
        assert requests[-1].prompt_tokens == pytest.approx(50_000, rel=0.05)
        assert requests[-1].block_tokens == pytest.approx(1024, rel=0.05), "a block is as many bytes as ever"
        assert f.gateway.admission.ratio.prompt_tokens("tiny", 1000) == pytest.approx(500, rel=0.05)
        assert f.gateway.admission.ratio.prompt_tokens("other", 1000) == 250


async def test_what_a_picture_weighs_is_learned_and_texts_stay_as_long_as_they_are(fleet, overheard):
    async def answer(conversation):
        words = conversation.request.json["messages"][0]["content"][0]["text"]
        await conversation.send_json({"usage": {"prompt_tokens": len(words) // 4 + 2500}})

    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    async with fleet(answer) as f:
        requests = overheard(f.gateway)
        client = await f.client()
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 400}, picture]}],
        }
        for _ in range(20):
            assert (await client.post("/v1/chat/completions", body)).status == 200
        assert requests[0].prompt_tokens < 2000, "not the base64"
        assert requests[-1].prompt_tokens == pytest.approx(2600, rel=0.05)
        assert f.gateway.admission.ratio.prompt_tokens("tiny", 4000) == 1000


async def test_one_pool_needs_no_model_in_a_body(fleet, overheard):
    async with fleet(cards=({"id": "tiny"},)) as f:
        requests = overheard(f.gateway)
        client = await f.client()
        unnamed = {key: value for key, value in CHAT.items() if key != "model"}
        for body in (CHAT, unnamed):
            assert (await client.post("/v1/chat/completions", body)).status == 200
        assert requests[0].blocks == requests[1].blocks
