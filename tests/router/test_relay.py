"""Requests to instances and answers back: what is sent on, and how bodies of every framing are relayed."""

import asyncio
import json

import pytest

from tests.router.conftest import CHAT, STREAM, Conversation, post


def test_a_plain_answer_comes_back_whole_with_the_headers_of_the_gateway(run, fleet):
    async def main():
        async with fleet() as f:
            client = await f.client()
            answer = await client.post("/v1/chat/completions", CHAT, "x-request-id: abc-1\r\n")
            assert answer.status == 200
            assert answer.json["choices"] == [{"text": "hello"}]
            assert answer.headers["x-request-id"] == "abc-1"
            assert answer.headers["x-dualmap-instance"] == "i0"
            assert answer.headers["x-dualmap-queue-ms"].isdigit()
            f.check_books_are_empty()

    run(main())
