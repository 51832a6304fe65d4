"""Small tokenizers of several builds, each trained in a moment on a few lines."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "def f(x):\n    return x + 1",
    "größer, schöner: 日本語",
    "user a b",
]
START, STOP, BOS = "<|im_start|>", "<|im_end|>", "<|begin|>"
TEXT_TEMPLATE = (  # takes contents as texts; prints tools, calls and reasoning as JSON, so that the order of keys shows
    "{{- '<|im_start|>tools\n' ~ (tools | tojson) ~ '<|im_end|>\n' if tools }}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + ((' ' + message.name) if message.name else '') + '\n' }}"
    "{%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
    "{{- message.content }}"
    "{%- for call in message.tool_calls %}{{- '\n<call>' ~ (call | tojson) }}{% endfor %}"
    "{{- '<|im_end|>\n' }}{% endfor %}"
    "{%- for document in documents or [] %}{{- document.title }}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{{- '' if enable_thinking else '<think></think>' }}{% endif %}"
)
PARTS_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ '[' + part.text + ']' }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (AddedToken(START, special=True, normalized=False), AddedToken(STOP, special=True, normalized=False))
OVERLAPPING = "tokens that end as others begin"
BUILDS = {
    "byte-level": {},
    "byte-level, a space before each piece": {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
    "a space before the first piece alone": {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first")},
    "a normalizer that composes": {"normalizer": normalizers.NFC()},
    "a normalizer that strips": {"normalizer": normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()])},
    "begin and end around a text": {"around": True},
    "a token that takes blanks on its left": {
        "added": (AddedToken("<l>", lstrip=True, normalized=False, special=True),)
    },
    "a token that takes blanks on its right": {
        "added": (AddedToken("<r>", rstrip=True, normalized=False, special=True),)
    },
    "a token that must be a word": {"added": (AddedToken("ox", single_word=True, normalized=False, special=True),)},
    "a token found after normalizing": {
        "normalizer": normalizers.Lowercase(),
        "added": (AddedToken("<N>", normalized=True, special=True),),
    },
    "tokens within tokens": {
        "added": tuple(AddedToken(text, normalized=False, special=True) for text in ("<a", "<a><b", "<a><b>"))
    },
    OVERLAPPING: {"added": tuple(AddedToken(text, normalized=False, special=True) for text in ("><", "a<|"))},
    "a token that begins with a blank": {"added": (AddedToken(" <s>", normalized=False, special=True),)},
}


def make_tokenizer(
    *,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None,
    normalizer: normalizers.Normalizer | None = None,
    added: tuple[AddedToken, ...] = (),
    around: bool = False,
    template: str = TEXT_TEMPLATE,
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), "▁"]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([*PLAIN, AddedToken(BOS, special=True, normalized=False), *added])
    if around:
        ends = [(text, tokenizer.token_to_id(text)) for text in (BOS, STOP)]
        tokenizer.post_processor = processors.TemplateProcessing(f"{BOS} $A {STOP}", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=STOP, chat_template=template)


def save_tokenizer(directory: Path, **build: object) -> str:
    make_tokenizer(**build).save_pretrained(directory)
    return str(directory)
