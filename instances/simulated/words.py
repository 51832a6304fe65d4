"""The words of simulated answers: each token tells its number, so that one that is lost or comes twice is seen.

An answer starts at a word that the prompt's hash names, and each of its tokens is the word after the one before. A
prompt that ends in the first tokens of such an answer, as ids or as text, is gone on with where they end.
"""

from xxhash import xxh3_64_intdigest

from dualmap.instances.simulated.media import TOKEN_BYTES

SPLIT_PLACE, SPLIT_PERIOD = 20, 49  # of so many words, where two tokens share a character


def _words() -> tuple[bytes, ...]:
    """Three letters and a space each; in some places the space and the letter after it are the two bytes of one
    character."""
    words = [f"{a}{b}{c} ".encode() for a in "bdfgklmnprstvz" for b in "aeiou" for c in "lmnrstx"]
    for place in range(SPLIT_PLACE, len(words), SPLIT_PERIOD):
        first, second = chr(0xE0 + place // SPLIT_PERIOD).encode()
        words[place] = words[place][:-1] + bytes((first,))
        words[place + 1] = bytes((second,)) + words[place + 1][1:]
    return tuple(words)


WORDS = _words()
_ALL_WORDS = b"".join(WORDS)
NUMBERS = {word: number for number, word in enumerate(WORDS)}
HALVES = {WORDS[place]: WORDS[place + 1] for place in range(SPLIT_PLACE, len(WORDS), SPLIT_PERIOD)}
SECOND_HALVES = {second: first for first, second in HALVES.items()}


def answer_bytes(packed_prompt: bytes, tokens: int, sibling: int = 0) -> bytes:
    """The first tokens of an answer to the prompt; sibling: which of several."""
    return answer_bytes_from(first_number(packed_prompt, sibling), tokens)


def answer_bytes_from(number: int, tokens: int) -> bytes:
    """So many tokens, of which the first is the word of that number."""
    rounds = (number + tokens) // len(WORDS) + 1
    return (_ALL_WORDS * rounds)[number * TOKEN_BYTES : (number + tokens) * TOKEN_BYTES]


def first_number(packed_prompt: bytes, sibling: int = 0) -> int:
    """Token ids fill the prompt's last token up with zeros: that does not make it another prompt."""
    return xxh3_64_intdigest(packed_prompt.rstrip(b"\0"), sibling) % len(WORDS)


def answered_tokens(packed_prompt: bytes, sibling: int = 0) -> int:
    """How many tokens at the prompt's end are the start of the answer to what comes before them."""
    end = len(packed_prompt)
    number = last = NUMBERS.get(packed_prompt[-TOKEN_BYTES:])
    if number is None or last is None:
        return 0
    start = end
    while start > TOKEN_BYTES and packed_prompt[start - TOKEN_BYTES : start] == WORDS[number]:
        start -= TOKEN_BYTES
        number = (number - 1) % len(WORDS)
    tokens = (end - start) // TOKEN_BYTES
    first = (last - tokens + 1) % len(WORDS)
    return tokens if first_number(packed_prompt[:start], sibling) == first else 0


def text_of_token(answer: bytes, number: int) -> bytes:
    """What token `number` adds to the answer's text: nothing where it ends within a character, whose text comes whole
    with the token after it."""
    token = answer[number * TOKEN_BYTES : (number + 1) * TOKEN_BYTES]
    if token in HALVES:
        return b""
    return SECOND_HALVES.get(token, b"") + token


def text_of(answer: bytes) -> bytes:
    """An answer's tokens as text: the sum of what `text_of_token` says of each."""
    whole = answer[:-TOKEN_BYTES] if answer[-TOKEN_BYTES:] in HALVES else answer
    return SECOND_HALVES.get(whole[:TOKEN_BYTES], b"") + whole
