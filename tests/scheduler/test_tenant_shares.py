"""Who has to leave places and KV cache to others while its requests run."""

import pytest

from dualmap.scheduler.tenant_shares import TenantShares

MAX_RUNNING, KV_TOKENS = 100, 10_000


def shares_of(**running: int) -> TenantShares:
    """Each request takes 100 tokens."""
    shares = TenantShares(MAX_RUNNING, KV_TOKENS)
    for tenant, count in running.items():
        for _ in range(count):
            shares.take(tenant, 100)
    return shares


@pytest.mark.parametrize(
    ("tenants", "running", "kv_tokens", "crowding"),
    [
        ({"flood": 100}, 100, 10_000, set()),  # alone, it may have all
        ({"flood": 74, "quiet": 1}, 75, 7500, set()),
        ({"flood": 75, "quiet": 1}, 76, 0, {"flood"}),
        ({"flood": 75, "quiet": 1}, 0, 7600, {"flood"}),
        ({"a": 50, "b": 50}, 100, 10_000, set()),  # each has its share
        ({"a": 51, "b": 49}, 100, 10_000, {"a"}),
        ({"a": 40, "b": 40, "c": 1}, 81, 8100, {"a", "b"}),
        ({"flood": 30, "quiet": 1}, 90, 9000, set()),  # what else there is, other gateways have sent
    ],
)
def test_who_has_more_than_an_equal_share_leaves_the_last_quarter_to_others(tenants, running, kv_tokens, crowding):
    assert shares_of(**tenants).crowding(running, kv_tokens) == crowding


def test_what_has_ended_is_held_no_more():
    shares = shares_of(flood=80, quiet=1)
    assert shares.several
    shares.give_back("quiet", 100)
    assert not shares.several
    assert shares.crowding(80, 8000) == set()
