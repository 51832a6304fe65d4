"""min_ttft: the smallest estimate over all instances."""


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_it_stays_with_the_cached_prefix_while_that_is_sooner(script):
    core = script("a", "b", policy="min_ttft")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    core.first_token("r0")
    assert where(core.arrive("r1", 2560, blocks=(1, 2, 3, 4, 5))) == warm


def test_it_leaves_the_cached_prefix_as_soon_as_another_is_sooner(script):
    core = script("a", "b", policy="min_ttft")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    core.first_token("r0")
    core.arrive("r1", 3000, blocks=(1, 2, 3, 4, 5, 6))
    assert core.attempt("r1").instance_id == warm  # 0.95 s to compute there, 3 s elsewhere
    # 0.95 s are ahead there, of 1024 tokens none is cached elsewhere: 1.024 s.
    assert where(core.arrive("r2", 1024, blocks=(1, 2))) == warm
    assert where(core.arrive("r3", 900, blocks=(1, 2))) != warm


def test_all_instances_are_looked_at(script):
    core = script(*"abcdefgh", policy="min_ttft")
    for i in range(8):
        core.arrive(f"r{i}", 1000 * (8 - i))
    free = core.attempt("r7").instance_id
    assert where(core.arrive("next", 100)) == free


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="min_ttft")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
