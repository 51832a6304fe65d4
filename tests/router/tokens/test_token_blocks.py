"""A prompt's blocks by token ids, and the prompts that get none."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.router.tokens.chat_prompt import read_chat
from dualmap.router.tokens.completion_prompt import read_completion
from dualmap.router.tokens.load_tokenizer import TokenizerError
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.token_blocks import MAX_BODY_BYTES, MAX_QUEUED, Fallback, TokenBlocks, TokenizedPrompt
from dualmap.scheduler.blocks import hash_tokens, token_root
from tests.conftest import WAIT_S
from tests.router.made_tokenizers import BOS, PARTS_TEMPLATE, START, STOP, make_tokenizer, save_tokenizer

BLOCK_TOKENS = 4
TOKENIZER = make_tokenizer()
HELLO = {"role": "user", "content": "hello, größer 日本語"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": [2.50]}'}}
SEEN_CALL = {"id": "c1", "function": {"arguments": {"b": 1, "a": [2.5]}, "name": "f"}, "type": "function"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SEEN_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": None, "parameters": TOOL["function"]["parameters"]},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, str]:
    return {
        "text": save_tokenizer(tmp_path_factory.mktemp("text")),
        "parts": save_tokenizer(tmp_path_factory.mktemp("parts"), template=PARTS_TEMPLATE),
        "around": save_tokenizer(tmp_path_factory.mktemp("around"), around=True),
    }


@pytest.fixture
def blocks(paths) -> Iterator[TokenBlocks]:
    made = TokenBlocks(paths["text"], BLOCK_TOKENS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def warm(paths) -> Iterator[TokenBlocks]:
    """One for all examples, that keeps what it has seen."""
    made = TokenBlocks(paths["text"], BLOCK_TOKENS)
    yield made
    made.close()


def ask(
    blocks: TokenBlocks, body: object, read: PromptReader = read_chat, lora_name: str = ""
) -> TokenizedPrompt | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return blocks.submit(raw, read, lora_name).result(WAIT_S)


def prompt_of(ids: list[int], lora_name: str = "", cache_salt: str = "") -> TokenizedPrompt:
    return TokenizedPrompt(hash_tokens(ids, BLOCK_TOKENS, parent=token_root(lora_name, cache_salt)), len(ids))


def rendered(messages: list[dict], **arguments: object) -> list[int]:
    arguments = {"add_generation_prompt": True} | arguments
    return TOKENIZER.apply_chat_template(messages, tokenize=True, return_dict=False, **arguments)


CHATS = {  # body -> messages and arguments as the template gets them
    "plain": ({"messages": [HELLO]}, [HELLO], {}),
    "system first": (
        {"messages": [{"role": "system", "content": "s"}, HELLO]},
        [{"role": "system", "content": "s"}, HELLO],
        {},
    ),
    "special tokens in a text": (
        {"messages": [{"role": "user", "content": f"a{STOP}\n{START}system\nb"}]},
        [{"role": "user", "content": f"a{STOP}\n{START}system\nb"}],
        {},
    ),
    "texts in parts are lines": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        [{"role": "user", "content": "a\nb"}],
        {},
    ),
    "a part that is a string": (
        {"messages": [{"role": "user", "content": ["a"]}]},
        [{"role": "user", "content": "a"}],
        {},
    ),
    "a name": ({"messages": [HELLO | {"name": "bob"}]}, [HELLO | {"name": "bob"}], {}),
    "a field nobody knows": ({"messages": [HELLO | {"mood": "good"}], "mood": 1}, [HELLO], {}),
    "no content": (
        {"messages": [HELLO, {"role": "assistant", "content": None}]},
        [HELLO, {"role": "assistant", "content": ""}],
        {},
    ),
    "a call and its result": (
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "1"}]},
            ],
            "tools": [TOOL],
        },
        [
            {"role": "assistant", "content": "", "tool_calls": [SEEN_CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
        ],
        {"tools": [SEEN_TOOL]},
    ),
    "a call whose arguments are not JSON": (
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}]},
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [SEEN_CALL | {"function": {"arguments": {}, "name": "f"}}],
            }
        ],
        {},
    ),
    "no calls": (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        [{"role": "assistant", "content": "x"}],
        {},
    ),
    "reasoning under its old name": (
        {"messages": [{"role": "assistant", "content": "x", "reasoning_content": "why"}]},
        [{"role": "assistant", "content": "x", "reasoning": "why", "reasoning_content": "why"}],
        {},
    ),
    "a header that changes with each request": (
        {"messages": [{"role": "system", "content": "x-anthropic-billing-header: cch=1;\nYou help."}, HELLO]},
        [{"role": "system", "content": "You help."}, HELLO],
        {},
    ),
    "no generation prompt": (
        {"messages": [HELLO], "add_generation_prompt": False},
        [HELLO],
        {"add_generation_prompt": False},
    ),
    "the last message goes on": (
        {
            "messages": [HELLO, {"role": "assistant", "content": "So"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
        [HELLO, {"role": "assistant", "content": "So"}],
        {"add_generation_prompt": False, "continue_final_message": True},
    ),
    "template arguments": (
        {"messages": [HELLO], "chat_template_kwargs": {"enable_thinking": True}},
        [HELLO],
        {"enable_thinking": True},
    ),
    "named fields go before template arguments": (
        {"messages": [HELLO], "chat_template_kwargs": {"add_generation_prompt": False, "enable_thinking": None}},
        [HELLO],
        {},
    ),
    "reasoning effort": ({"messages": [HELLO], "reasoning_effort": "low"}, [HELLO], {"enable_thinking": True}),
    "no reasoning effort": ({"messages": [HELLO], "reasoning_effort": "none"}, [HELLO], {"enable_thinking": False}),
    "documents": (
        {"messages": [HELLO], "documents": [{"title": "t", "text": "x"}]},
        [HELLO],
        {"documents": [{"title": "t", "text": "x"}]},
    ),
}


@pytest.mark.parametrize(("body", "messages", "arguments"), CHATS.values(), ids=CHATS)
def test_a_chat_has_the_ids_that_the_template_gives(warm, body, messages, arguments):
    exact = warm.exact
    assert ask(warm, {"model": "m", **body}) == prompt_of(rendered(messages, **arguments))
    assert warm.exact == exact + 1


def test_a_template_of_parts_gets_every_content_as_parts(paths):
    blocks = TokenBlocks(paths["parts"], BLOCK_TOKENS)
    body = {
        "messages": [HELLO, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    }
    text = f"{START}user\n[{HELLO['content']}]{STOP}\n{START}user\n[a][b]{STOP}\n{START}assistant\n"
    assert ask(blocks, body) == prompt_of(TOKENIZER(text, add_special_tokens=False)["input_ids"])
    blocks.close()


@pytest.mark.parametrize(
    ("read", "asked", "around"),
    [
        (read_chat, None, False),
        (read_chat, True, True),
        (read_completion, None, True),
        (read_completion, False, False),
    ],
)
def test_chats_get_no_special_tokens_around_them_and_completions_do_unless_asked(paths, read, asked, around):
    blocks = TokenBlocks(paths["around"], BLOCK_TOKENS)
    text = "The quick fox"
    chat = read is read_chat
    body = {"messages": [HELLO]} if chat else {"prompt": text}
    if asked is not None:
        body["add_special_tokens"] = asked
    ids = rendered([HELLO]) if chat else TOKENIZER(text)["input_ids"]
    ends = [TOKENIZER.convert_tokens_to_ids(token) for token in (BOS, STOP)]
    assert ask(blocks, body, read) == prompt_of([ends[0], *ids, ends[1]] if around else ids)
    blocks.close()


IDS = [5, 6, 7, 8, 9]
COMPLETIONS = {
    "a text": (f"a\n{STOP} b", TOKENIZER(f"a\n{STOP} b")["input_ids"]),
    "a list of one text": (["größer"], TOKENIZER("größer")["input_ids"]),
    "token ids": (IDS, IDS),
    "a list of one list of ids": ([IDS], IDS),
}


@pytest.mark.parametrize(("prompt", "ids"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_a_completion_has_the_ids_of_its_prompt(warm, prompt, ids):
    assert ask(warm, {"prompt": prompt}, read=read_completion) == prompt_of(ids)


def test_adapters_and_salts_share_no_block(warm):
    ids = rendered([HELLO])
    body = {"messages": [HELLO], "cache_salt": "s"}
    assert ask(warm, body, lora_name="lora") == prompt_of(ids, "lora", "s")
    answers = [
        ask(warm, {"messages": [HELLO], "cache_salt": salt}, lora_name=lora) for lora in ("", "l") for salt in ("", "l")
    ]
    assert len({answer.blocks[0] for answer in answers}) == 4


CHAT = {"messages": [HELLO]}
FALLBACKS = {
    "not JSON": (b"{", read_chat, Fallback.MALFORMED),
    "not UTF-8": (b'{"messages":[{"role":"user","content":"\xff"}]}', read_chat, Fallback.MALFORMED),
    "nested deeply": (b'{"messages":[' + b'{"a":' * 9999 + b"1" + b"}" * 9999 + b"]}", read_chat, Fallback.MALFORMED),
    "no messages": ({}, read_chat, Fallback.MALFORMED),
    "a message that is a text": ({"messages": ["hi"]}, read_chat, Fallback.MALFORMED),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        read_chat,
        Fallback.UNSUPPORTED,
    ),
    "no role": ({"messages": [{"content": "hi"}]}, read_chat, Fallback.UNSUPPORTED),
    "a template of its own": (CHAT | {"chat_template": "x"}, read_chat, Fallback.UNSUPPORTED),
    "a template among the arguments": (
        CHAT | {"chat_template_kwargs": {"chat_template": "x"}},
        read_chat,
        Fallback.UNSUPPORTED,
    ),
    "an argument that is not the template's": (
        CHAT | {"chat_template_kwargs": {"tokenize": True}},
        read_chat,
        Fallback.UNSUPPORTED,
    ),
    "a truncated chat": (CHAT | {"truncate_prompt_tokens": 9}, read_chat, Fallback.UNSUPPORTED),
    "ids beside the messages": (
        CHAT | {"kv_transfer_params": {"prompt_token_ids": [1]}},
        read_chat,
        Fallback.UNSUPPORTED,
    ),
    "a role the template does not know": (
        {"messages": [HELLO | {"role": "developer"}]},
        read_chat,
        Fallback.UNSUPPORTED,
    ),
    "a tool that is not a function": (CHAT | {"tools": [{"type": "custom"}]}, read_chat, Fallback.UNSUPPORTED),
    "no message": ({"messages": []}, read_chat, Fallback.REFUSED),
    "a last message that both ends and goes on": (
        CHAT | {"continue_final_message": True},
        read_chat,
        Fallback.REFUSED,
    ),
    "content that is a number": ({"messages": [{"role": "user", "content": 5}]}, read_chat, Fallback.FAILED),
    "several prompts": ({"prompt": ["a", "b"]}, read_completion, Fallback.UNSUPPORTED),
    "several prompts of ids": ({"prompt": [[1], [2]]}, read_completion, Fallback.UNSUPPORTED),
    "no prompt": ({}, read_completion, Fallback.UNSUPPORTED),
    "ids below 0": ({"prompt": [1, -1]}, read_completion, Fallback.UNSUPPORTED),
    "embeddings": ({"prompt": "a", "prompt_embeds": "x"}, read_completion, Fallback.UNSUPPORTED),
    "a suffix": ({"prompt": "a", "suffix": "b"}, read_completion, Fallback.UNSUPPORTED),
    "a truncated prompt": ({"prompt": "a", "truncate_prompt_tokens": 1}, read_completion, Fallback.UNSUPPORTED),
    "too large": (b" " * (MAX_BODY_BYTES + 1), read_chat, Fallback.TOO_LARGE),
}


@pytest.mark.parametrize(("body", "read", "why"), FALLBACKS.values(), ids=FALLBACKS)
def test_what_cannot_be_told_exactly_gets_no_answer_and_is_counted(blocks, body, read, why):
    assert ask(blocks, body, read) is None
    assert {reason for reason, times in blocks.fallbacks.items() if times} == {why}
    assert blocks.exact == 0
    assert ask(blocks, CHAT) == prompt_of(rendered([HELLO]))


contents = st.lists(
    st.sampled_from([START, STOP, "\n", " ", "The quick", "größer 日本語"]) | st.text(max_size=8), max_size=6
)
chats = st.lists(
    st.builds(
        lambda role, parts: {"role": role, "content": "".join(parts)},
        st.sampled_from(["system", "user", "assistant"]),
        contents,
    ),
    min_size=1,
    max_size=6,
)


@given(chat=chats, turns=st.integers(1, 6))
@settings(max_examples=150)
def test_any_chat_and_its_earlier_turns_have_the_ids_that_the_template_gives(warm, chat, turns):
    for messages in (chat[:turns], chat):
        assert ask(warm, {"messages": messages}) == prompt_of(rendered(messages))


def test_the_next_turn_tokenises_its_further_messages_alone(blocks):
    first = [{"role": "system", "content": "s" * 500}, {"role": "user", "content": "u" * 300}]
    further = [{"role": "assistant", "content": "a" * 70}, {"role": "user", "content": "v" * 30}]
    before = ask(blocks, {"messages": first})
    computed = blocks.computed_chars
    after = ask(blocks, {"messages": first + further})
    assert blocks.computed_chars - computed == len(f"{START}assistant\n{'a' * 70}{START}user\n{'v' * 30}")
    assert blocks.cached_chars > 800
    shared = (
        before.prompt_tokens - len(rendered([HELLO])) + len(rendered([HELLO], add_generation_prompt=False))
    ) // BLOCK_TOKENS
    assert shared > 10
    assert after.blocks[:shared] == before.blocks[:shared]


def test_above_the_bound_there_is_no_answer_at_once_and_below_it_there_is_again(blocks):
    gate = Event()
    blocks._pool.submit(gate.wait, WAIT_S)
    body = json.dumps(CHAT).encode()
    taken = [blocks.submit(body, read_chat, "") for _ in range(MAX_QUEUED)]
    assert blocks.queued == MAX_QUEUED
    refused = blocks.submit(body, read_chat, "")
    assert refused.done()
    assert refused.result() is None
    assert blocks.fallbacks[Fallback.BUSY] == 1
    assert taken[-1].cancel()
    assert blocks.queued == MAX_QUEUED - 1
    again = blocks.submit(body, read_chat, "")
    gate.set()
    wait([*taken, again], timeout=WAIT_S)
    assert again.result() == prompt_of(rendered([HELLO]))
    assert blocks.exact == MAX_QUEUED
    blocks._pool.submit(int).result(WAIT_S)
    assert blocks.queued == 0


def test_prompts_that_wait_when_it_closes_are_cancelled_and_given_back(blocks):
    gate = Event()
    blocks._pool.submit(gate.wait, WAIT_S)
    waiting = [blocks.submit(b"{}", read_chat, "") for _ in range(5)]
    blocks.close()
    gate.set()
    assert all(future.cancelled() for future in waiting)
    assert blocks.queued == 0


def test_threads_at_once_give_what_one_gives(paths):
    blocks = TokenBlocks(paths["text"], BLOCK_TOKENS, threads=4)
    asked = [[HELLO, {"role": "assistant", "content": f"{n % 9} {STOP} größer" * (n % 7)}] for n in range(200)]
    futures = [blocks.submit(json.dumps({"messages": messages}).encode(), read_chat, "") for messages in asked]
    assert [future.result(WAIT_S) for future in futures] == [prompt_of(rendered(messages)) for messages in asked]
    assert blocks.exact == 200
    blocks.close()


def test_a_tokenizer_that_cannot_be_used_is_refused_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(TokenizerError, match=r"No tokenizer can be loaded from '.*nowhere'"):
        TokenBlocks(str(tmp_path / "nowhere"), BLOCK_TOKENS)
    with pytest.raises(TokenizerError, match="has no chat template"):
        TokenBlocks(save_tokenizer(tmp_path / "bare", template=""), BLOCK_TOKENS)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TokenizerError, match=r"dualmap\[tokenizer\]"):
        TokenBlocks(str(tmp_path), BLOCK_TOKENS)
