"""The ids of a text put together from segments are the ids of the whole text, whatever the tokenizer."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.router.tokens.text_tokens import ENTRY_CHARS, TextTokens
from tests.router.made_tokenizers import BOS, BUILDS, OVERLAPPING, START, STOP, make_tokenizer

PIECES = [START, STOP, BOS, "<l>", "<r>", "ox", "<N>", "<n>", "<a", "><", "<b>", " <s>", "a<|im", "|>"]
PIECES += [" ", "  ", "\n", "\n\n", "\t", "x", "The quick fox", "größer 日本語 🙂", "e\u0301", "user", "<|"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=24).map("".join)


@cache
def made(build: str):
    """A tokenizer, and what keeps all segments, and what keeps none."""
    tokenizer = make_tokenizer(**BUILDS[build])
    return tokenizer, TextTokens(tokenizer, 1 << 20), TextTokens(tokenizer, 0)


@pytest.mark.parametrize("build", BUILDS)
@given(text=texts, around=st.booleans())
@settings(max_examples=60)
def test_segments_give_the_ids_of_the_whole_text_whether_they_were_kept_or_not(build, text, around):
    tokenizer, warm, cold = made(build)
    whole = tokenizer(text, add_special_tokens=around)["input_ids"]
    assert list(warm.encode(text, around).ids) == whole
    assert list(cold.encode(text, around).ids) == whole
    again = warm.encode(text, around)
    assert list(again.ids) == whole
    assert (again.computed_chars, again.cached_chars) == (0, len(text))
    assert cold.kept_chars == 0


@pytest.mark.parametrize("build", BUILDS)
def test_texts_are_cut_where_a_special_token_is_one_wherever_it_stands(build):
    tokens = TextTokens(make_tokenizer(**BUILDS[build]), 1 << 20)
    assert tokens.segmented
    turn = f"{START}user\nThe quick fox{STOP}"
    tokens.encode(turn, False)
    whole = f"{turn}{STOP}x"
    assert tokens.encode(whole, False).computed_chars == len(whole if build == OVERLAPPING else f"{STOP}x")


def test_a_longer_text_costs_its_further_segments_alone():
    tokens = TextTokens(make_tokenizer(), 1 << 20)
    turn = f"{START}user\nhello{STOP}\n"
    assert tokens.encode(turn, False).computed_chars == len(turn)
    longer = tokens.encode(f"{turn}{START}assistant\nhi{STOP}\n{turn}", False)
    assert longer.computed_chars == len(f"{START}assistant\nhi")
    assert longer.cached_chars == 2 * len(turn) + len(f"{STOP}\n")


def test_what_is_kept_is_bounded_and_the_oldest_segment_goes_first():
    segments = [f"{START}{n} {'x' * n}" for n in range(60)]
    bound = sum(len(segment) + ENTRY_CHARS for segment in segments[-5:])
    tokens = TextTokens(make_tokenizer(), bound)
    for segment in segments:
        tokens.encode(segment, False)
        assert tokens.kept_chars <= bound
    assert tokens.encode("".join(segments[-5:]), False).computed_chars == 0
    assert tokens.encode(segments[-6], False).computed_chars == len(segments[-6])


def test_a_segment_that_is_used_stays():
    first, *others = [f"{START}{n}" for n in range(6)]
    tokens = TextTokens(make_tokenizer(), 3 * (len(first) + ENTRY_CHARS))
    tokens.encode(first, False)
    for other in others:
        assert tokens.encode(first + other, False).computed_chars == len(other)


class OwnCode:
    """A tokenizer with Python code of its own before the backend: it strips blanks around special tokens."""

    def __init__(self) -> None:
        self.made = make_tokenizer()
        self.backend_tokenizer = self.made.backend_tokenizer

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        return {"input_ids": self.made(text.replace(f"\n{STOP}", STOP), **options)["input_ids"]}


def test_a_tokenizer_whose_texts_are_more_than_their_segments_gets_whole_texts():
    own = OwnCode()
    tokens = TextTokens(own, 1 << 20)
    assert not tokens.segmented
    text = f"{START}user\nhello\n{STOP}"
    for _ in range(2):
        encoded = tokens.encode(text, False)
        assert list(encoded.ids) == own(text, add_special_tokens=False)["input_ids"]
        assert encoded.computed_chars == len(text)
    assert tokens.kept_chars == 0


def test_a_tokenizer_without_a_backend_gets_whole_texts():
    class Slow:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [1] * add_special_tokens + [ord(letter) for letter in text]}

    tokens = TextTokens(Slow(), 1 << 20)
    assert not tokens.segmented
    assert list(tokens.encode("ab", True).ids) == [1, 97, 98]


def test_special_tokens_that_are_read_as_text_are_no_place_to_cut():
    tokenizer = make_tokenizer()
    tokenizer.split_special_tokens = True
    tokens = TextTokens(tokenizer, 1 << 20)
    text = f"!{START}user"
    assert list(tokens.encode(text, False).ids) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokens.encode(f"{text}{STOP}", False).computed_chars == len(f"{text}{STOP}")
