"""A profile's file is read as it was written, and says what is wrong with it."""

from pathlib import Path

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_file import profile_text, read_profile

DEFAULTS = EngineProfile()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    profile = EngineProfile(kv_tokens=64_000, max_model_len=16_384, attention_s_per_token_pair=1e-05, api_s=0.0125)
    path = tmp_path / "profile.yaml"
    path.write_text(profile_text(profile, ["measured", "", "a: comment"]))
    assert read_profile(path, DEFAULTS) == profile
    assert path.read_text().startswith("# measured\n#\n# a: comment\nblock_size: 16\n")


def test_what_a_file_leaves_out_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"kv_tokens": 200000, "step_base_s": 0}')
    read = read_profile(path, DEFAULTS)
    assert (read.kv_tokens, read.step_base_s, read.block_size) == (200_000, 0.0, DEFAULTS.block_size)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kv_token: 1", "unknown field 'kv_token'; known are api_s"),
        ("kv_tokens: many", "kv_tokens must be a number, not 'many'"),
        ("kv_tokens: true", "kv_tokens must be a number, not True"),
        ("kv_tokens: 3", "kv_tokens must be at least block_size (16), not 3"),
        ("api_s: -1", "api_s must be a number of seconds of at least 0, not -1.0"),
        ("[1]", "expected names with values, found list"),
        ("", "expected names with values, found NoneType"),
        ("a: [", "neither JSON nor YAML"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml: ") as error:
        read_profile(path, DEFAULTS)
    assert said in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.yaml: No such file"):
        read_profile(tmp_path / "none.yaml", DEFAULTS)
