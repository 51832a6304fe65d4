"""What a tenant notices of another that floods the cluster, in virtual time."""

import pytest

from dualmap.loadtest.experiments.tenant_flood import (
    CHATS,
    LONGEST_TOKENS,
    PROFILE,
    QUIET,
    added_wait,
    arrivals,
    main,
    p90_ttft_s,
)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_a_flood_of_chats_makes_a_quiet_tenant_wait_by_less_than_a_third(seed: int) -> None:
    alone_s, beside_s = added_wait(1, CHATS, seed, 240.0)
    assert beside_s <= 1.3 * alone_s


def test_without_tenants_the_quiet_one_drowns_in_the_flood() -> None:
    quiet = arrivals("quiet", 0.15, *QUIET, 1)
    flood = arrivals("flood", 3.0, *CHATS, 1)
    assert p90_ttft_s(quiet, flood, of="quiet", told_apart=False) > 10 * p90_ttft_s(quiet, of="quiet")


@pytest.mark.release
@pytest.mark.parametrize("seed", [1, 2])
def test_where_there_are_several_instances_it_waits_by_less_than_a_third_too(seed: int) -> None:
    alone_s, beside_s = added_wait(4, CHATS, seed, 120.0)
    assert beside_s <= 1.3 * alone_s


@pytest.mark.parametrize("output_tokens", [(50, 400), (1000, 3000)])
def test_neither_long_prompts_nor_long_answers_of_a_flood_add_more_than_one_prompt_in_progress(
    output_tokens: tuple[int, int],
) -> None:
    """A prompt that the instance computes cannot be interrupted; answers leave places and KV cache for others."""
    quiet = arrivals("quiet", 0.15, *QUIET, 1)
    flood = arrivals("flood", 3.0, QUIET[0], output_tokens, 1)
    longest_s = LONGEST_TOKENS * PROFILE.prefill_s_per_token
    assert p90_ttft_s(quiet, flood, of="quiet") <= p90_ttft_s(quiet, of="quiet") + longest_s


@pytest.mark.slow
def test_the_table_has_a_row_for_each_flood_and_size(capsys) -> None:
    assert main(["--seeds", "1", "--seconds", "20"]) == 0
    said = capsys.readouterr().out
    for row in ("chats, 1 instance ", "chats, 4 instances", "long prompts, 1 instance ", "long prompts, 4 instances"):
        assert row in said
