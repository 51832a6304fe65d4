"""Instances that are named with another role or revision than they have: some serve on until others have come again."""

from operator import itemgetter

import pytest

from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.role import Role

A = "10.0.0.1:8000"


def as_roles(*roles: str, revision: str = "") -> list[dict[str, object]]:
    return [{"url": f"http://10.0.0.{n}:8000", "role": role, "revision": revision} for n, role in enumerate(roles, 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (as_roles("prefill", "prefill", "decode", "decode"), as_roles("decode", "decode", "prefill", "prefill")),
        (as_roles("prefill", "decode"), as_roles("decode", "prefill")),
        (as_roles("prefill", "decode", "decode"), as_roles("prefill", "decode", "decode", revision="v2")),
        (as_roles("both", "both", "both"), as_roles("both", "both", "both", revision="v2")),
        (as_roles("both", "both", "both"), as_roles("prefill", "prefill", "decode")),
    ],
)
def test_where_all_are_there_for_something_else_somebody_answers_all_the_while(rounds, before, after):
    rounds.configure(instances=before)
    rounds.round()
    rounds.configure(instances=after)
    watched = rounds.watched
    for _ in range(20):
        rounds.round()
        states = watched.members.items()
        assert any(s is MemberState.READY and watched.specs[i].role is not Role.PREFILL for i, s in states)
    became = [{"url": f"http://{i}", "role": s.role.value, "revision": s.revision} for i, s in watched.specs.items()]
    assert sorted(became, key=itemgetter("url")) == after
    assert set(watched.members.values()) == {MemberState.READY}


def test_the_only_one_that_answers_is_there_for_something_else_after_a_short_absence(rounds):
    rounds.configure(instances=as_roles("prefill", "decode"))
    rounds.round()
    rounds.watched.members[A] = MemberState.LOST
    rounds.configure(instances=as_roles("decode", "decode", revision="v2"))
    for _ in range(9):
        rounds.round()
    assert [spec.revision for spec in rounds.watched.specs.values()] == ["v2", "v2"]
