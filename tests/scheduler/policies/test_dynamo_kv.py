"""dynamo_kv: prefill blocks to compute plus blocks active while decoding."""


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_cached_blocks_are_credited_against_prefill(script):
    core = script("a", "b", policy="dynamo_kv")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    core.finish("r0")
    assert where(core.arrive("r1", 2048, blocks=(1, 2, 3, 4))) == warm


def test_blocks_that_active_requests_share_count_once(script):
    core = script("a", "b", policy="dynamo_kv")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    core.first_token("r0")
    # There: no prefill and 4 active blocks, shared by all. Elsewhere: 4 to prefill and 4 active.
    for i in range(1, 20):
        assert where(core.arrive(f"r{i}", 2048, blocks=(1, 2, 3, 4))) == warm
        core.first_token(f"r{i}")


def test_decoding_requests_weigh_by_their_blocks_not_their_number(script):
    core = script("a", "b", policy="dynamo_kv")
    long = where(core.arrive("long", 5120, blocks=tuple(range(10))))
    core.first_token("long")
    for i in range(9):
        assert where(core.arrive(f"short{i}", 512, blocks=(100 + i,))) != long
        core.first_token(f"short{i}")


def test_prefill_that_is_not_done_counts_with_the_active_blocks(script):
    core = script("a", "b", policy="dynamo_kv")
    busy = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    other = where(core.arrive("r1", 3072, blocks=tuple(range(11, 17))))
    assert busy != other
    core.first_token("r1")  # 6 active blocks there; 4 active and 4 to prefill at the first
    assert where(core.arrive("r2", 512, blocks=(99,))) == other


def test_ended_requests_are_active_no_more(script):
    core = script("a", "b", policy="dynamo_kv")
    for i in range(50):
        core.arrive(f"r{i}", 1024, blocks=(2 * i, 2 * i + 1))
        core.finish(f"r{i}")
    core.arrive("last", 512, blocks=(999,))
    core.arrive("more", 512, blocks=(998,))
    active = core.core.policy._active
    assert sum(len(a.uses) for a in active.values()) <= 3  # the running ones, and one end not yet noticed
