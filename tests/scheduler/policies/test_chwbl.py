"""chwbl: the owner of the prefix, up to 1.25 times the mean load."""

from math import floor


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_a_prefix_stays_with_its_owner_while_loads_are_balanced(script):
    core = script(*"abcd", policy="chwbl")
    owner = where(core.arrive("r0", blocks=(1, 2)))
    core.finish("r0")
    for i in range(1, 5):
        assert where(core.arrive(f"r{i}", blocks=(1, 2, i))) == owner
        core.finish(f"r{i}")


def test_no_instance_gets_more_than_the_bound_even_if_all_share_one_prefix(script):
    core = script(*"abcd", policy="chwbl")
    for total in range(1, 81):
        instance_id = where(core.arrive(f"r{total}", blocks=(1, 2)))
        if total > 3:  # below, a single request is above the bound
            assert core.view(instance_id).running_count <= max(3, floor(1.25 * total / 4))
    assert sum(core.view(i).running_count for i in "abcd") == 80
    assert max(core.view(i).running_count for i in "abcd") == 25


def test_what_overflows_goes_to_the_same_next_instance_on_the_ring(script):
    def order() -> list[str]:
        core = script(*"abcd", policy="chwbl")
        return [where(core.arrive(f"r{i}", blocks=(1, 2))) for i in range(30)]

    assert order() == order()
    assert len(set(order())) > 1


def test_where_all_are_above_the_bound_the_owner_takes_it(script):
    core = script(*"abcd", policy="chwbl")
    owner = where(core.arrive("r0", blocks=(1, 2)))
    # Two in flight on four instances: the bound is 1.25 x 2 / 4, less than the one request itself.
    assert where(core.arrive("r1", blocks=(1, 2))) == owner
