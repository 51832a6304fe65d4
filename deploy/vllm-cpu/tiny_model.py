"""A model that a CPU serves quickly, made without a network: `tiny_model.py DIR`. Qwen2's shape with random weights, a
byte-level BPE tokenizer trained on the Python files at hand, and ChatML. Run it with the interpreter vLLM is installed
in: it needs numpy, safetensors and tokenizers."""

import argparse
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TRAINING_FILES = 1600
TRAINING_CHARS = 24_000_000
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def texts() -> Iterator[str]:
    """Python files of the standard library, in a fixed order."""
    left = TRAINING_CHARS
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))[:TRAINING_FILES]:
        try:
            text = path.read_text(encoding="utf-8")[:60_000]
        except (OSError, UnicodeDecodeError):
            continue
        left -= len(text)
        yield text
        if left < 0:
            return


def make_tokenizer(vocab: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def weights(vocab: int, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Random, from a fixed seed: equal arguments give equal models."""
    random = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    hidden, inner = args.hidden, 2 * args.hidden
    kv = hidden // args.heads * args.kv_heads
    tensors = {"model.embed_tokens.weight": some(vocab, hidden), "model.norm.weight": np.ones(hidden, np.float32)}
    for layer in range(args.layers):
        shapes = {
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (hidden, hidden),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = np.ones(hidden, np.float32)
        tensors |= {prefix + name: some(*shape) for name, shape in shapes.items()}
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--max-positions", type=int, default=32_768)
    args = parser.parse_args()
    directory: Path = args.directory
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(args.vocab)
    tokenizer.save(str(directory / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size()
    end_id, stop_id = tokenizer.token_to_id(END), tokenizer.token_to_id(STOP)
    write_json(
        directory / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=args.max_positions,
        eos_token=STOP,
        pad_token=END,
        bos_token=None,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    write_json(
        directory / "config.json",
        architectures=["Qwen2ForCausalLM"],
        model_type="qwen2",
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        intermediate_size=2 * args.hidden,
        vocab_size=vocab,
        max_position_embeddings=args.max_positions,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        tie_word_embeddings=True,
        attention_dropout=0.0,
        initializer_range=0.02,
        use_sliding_window=False,
        torch_dtype="float32",
        use_cache=True,
        bos_token_id=None,
        eos_token_id=stop_id,
        pad_token_id=end_id,
    )
    write_json(directory / "generation_config.json", eos_token_id=[stop_id, end_id], do_sample=True, temperature=1.0)
    tensors = weights(vocab, args)
    save_file(tensors, str(directory / "model.safetensors"), metadata={"format": "pt"})
    print(f"{directory}: {sum(tensor.size for tensor in tensors.values()) / 1e6:.1f} million parameters")


def write_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
