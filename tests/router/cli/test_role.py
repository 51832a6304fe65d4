"""What `dualmap role` waits for, by what GET /admin/scaling says."""

import pytest

from dualmap.router.cli.admin_call import AdminCallError
from dualmap.router.cli.role import is_there

SERVER = "10.0.0.2:8000"


def scalings(ordered: dict[str, str], *instances: tuple[str, str, str]) -> list[dict]:
    """instances: id, state and role."""
    rows = [{"instance_id": i, "state": state, "role": role, "reason": ""} for i, state, role in instances]
    by_role = ([row for row in rows if row["role"] == role] for role in ("prefill", "decode"))
    return [{"ordered_roles": ordered, "instances": of_role} for of_role in by_role]


ONE = {SERVER: "decode"}
RANKS = {f"{SERVER}@0": "decode", f"{SERVER}@1": "decode"}


@pytest.mark.parametrize(
    ("ordered", "instances", "there"),
    [
        (ONE, [(SERVER, "ready", "prefill")], False),
        (ONE, [(SERVER, "draining", "prefill")], False),
        (ONE, [], False),
        (ONE, [(SERVER, "starting", "decode")], False),
        (ONE, [(SERVER, "ready", "decode")], True),
        (RANKS, [(f"{SERVER}@0", "ready", "decode")], False),
        (RANKS, [(f"{SERVER}@0", "ready", "decode"), (f"{SERVER}@1", "ready", "prefill")], False),
        (RANKS, [(f"{SERVER}@0", "ready", "decode"), (f"{SERVER}@1", "ready", "decode")], True),
    ],
)
def test_it_is_there_when_all_that_are_meant_are_ready_in_the_role(ordered, instances, there):
    others = {"10.0.0.9:8000": "prefill"}
    assert is_there(scalings(ordered | others, *instances), SERVER, "decode") is there


@pytest.mark.parametrize(
    ("ordered", "instances", "said"),
    [
        (ONE, [(SERVER, "lost", "prefill")], f"{SERVER} is lost: it comes in the role decode when it answers again"),
        (RANKS, [(f"{SERVER}@1", "lost", "decode")], f"{SERVER}@1 is lost"),
        ({SERVER: "both"}, [(SERVER, "ready", "prefill")], f"{SERVER} was given the role both meanwhile"),
        ({}, [], f"{SERVER} has left"),
    ],
)
def test_what_never_comes_is_not_waited_for(ordered, instances, said):
    with pytest.raises(AdminCallError, match=said):
        is_there(scalings(ordered, *instances), SERVER, "decode")
