"""power_of_two: two drawn by the request's id, the one with fewer requests takes it."""


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_of_two_instances_the_one_with_fewer_requests_takes_it(script):
    core = script("a", "b", policy="power_of_two")
    first = where(core.arrive("r0", 10))
    second = where(core.arrive("r1", 100_000))
    assert {first, second} == {"a", "b"}
    core.finish("r0")
    assert where(core.arrive("r2")) == first


def test_an_idle_fleet_is_used_evenly(script):
    core = script(*"abcdefgh", policy="power_of_two")
    used = []
    for i in range(800):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert all(60 <= used.count(i) <= 140 for i in "abcdefgh")


def test_the_fullest_instance_is_never_chosen_and_others_are_not_all_looked_at(script):
    core = script(*"abcdefgh", policy="power_of_two")
    for i in range(80):
        core.arrive(f"r{i}")
    counts = [core.view(i).running_count for i in "abcdefgh"]
    assert sum(counts) == 80
    assert max(counts) <= 13
    assert len(set(counts)) > 1  # not the shortest queue of all


def test_the_draw_does_not_depend_on_the_order_of_joining(script):
    def placed(order: str) -> list[str]:
        core = script(*order, policy="power_of_two")
        return [where(core.arrive(f"r{i}")) for i in range(40)]

    assert placed("abcd") == placed("dbca")
