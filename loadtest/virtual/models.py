"""Simulated models and accelerators by name, for studies: what a step costs and how much KV there is.

All are Qwen2.5-7B on a 910B4 (arXiv 2602.06502, section 4.1). Prefill: 0.00016 s a token at the traces' mean prompt of
8,000 tokens. The model does 15.2 GFLOP a token and 4 x 3,584 x 28 = 401 kFLOP a query-key pair, so that a pair costs
2.64e-5 of a token; 0.000145 s a token and 3.8e-9 s a pair make the 0.00016 s.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from dualmap.instances.simulated.engine_profile import EngineProfile, ProfileError
from dualmap.instances.simulated.profile_file import read_profile
from dualmap.loadtest.traces.trace import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Model:
    """max_output_tokens: answers are cut to that many; None: they are as the trace has them."""

    name: str
    profile: EngineProfile
    max_output_tokens: int | None = None


_FULL = EngineProfile(
    block_size=512,
    kv_tokens=740_000,
    offload_tokens=1_120_000,  # 64 GB at 57 KB a token
    prefill_s_per_token=0.000145,
    attention_s_per_token_pair=3.8e-9,
)
# The model of the paper's own estimates: prefill is all there is, and 64 GB of cache.
_PREFILL_ONLY = EngineProfile(
    block_size=512,
    kv_tokens=1_120_000,
    prefill_s_per_token=0.00016,
    step_base_s=0.001,
    decode_s_per_seq=0.0,
    decode_s_per_context_token=0.0,
)

MODELS = {
    "full": Model("full", _FULL),
    "prefill-only": Model("prefill-only", _PREFILL_ONLY, max_output_tokens=1),
    "sim-instance": Model("sim-instance", EngineProfile(block_size=512)),  # what `dualmap sim-instance` does by default
    "small-cache": Model("small-cache", replace(_FULL, kv_tokens=300_000, offload_tokens=0)),
}


def load_model(name: str) -> Model:
    """A name of MODELS, or a JSON or YAML file with fields of EngineProfile; what it leaves out is as in `full`. Its
    block_size is not taken: a trace's blocks are what is known of its prompts.

    Raises ValueError, with the file, the rule and the value.
    """
    if name in MODELS:
        return MODELS[name]
    path = Path(name)
    known = f"models are {', '.join(MODELS)}, or the name of a JSON or YAML file with fields of EngineProfile"
    if not path.is_file():
        raise ValueError(f"no model {name!r}: {known}")
    profile = read_profile(path, _FULL)
    held = profile.kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    try:
        fitting = replace(profile, block_size=BLOCK_TOKENS, max_model_len=min(profile.max_model_len, max(held, 1)))
    except ProfileError as error:
        raise ValueError(f"{path}: {error}") from None
    return Model(path.stem, fitting)
