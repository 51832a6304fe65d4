"""Values that several tests need and that are long to write."""

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.replay.run_file import RunHeader

# Round numbers: a step takes 10 ms, a token of a prompt 0.1 ms, decoding nothing.
ROUND_PROFILE = EngineProfile(
    block_size=512,
    kv_tokens=200_000,
    prefill_s_per_token=0.0001,
    step_base_s=0.01,
    decode_s_per_seq=0.0,
    decode_s_per_context_token=0.0,
)


def run_header(*, label: str, requests: int, **other: object) -> RunHeader:
    values = {
        "note": "4 simulated instances",
        "started_at": "2026-01-01T00:00:00+00:00",
        "target": "http://127.0.0.1:1",
        "path": "/v1/completions",
        "model": "m",
        "trace": "t.jsonl",
        "qps": 1.0,
        "speed": 1.0,
        "slo_s": 5.0,
        "request_timeout_s": 1.0,
        "time_limit_s": 1.0,
    }
    return RunHeader(label=label, requests=requests, **(values | other))
