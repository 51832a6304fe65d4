"""lmetric: tokens to prefill times batch size."""


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_the_smaller_product_wins(script):
    core = script("a", "b", policy="lmetric")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    core.first_token("r0")
    # Warm: 512 tokens x 2 requests. Cold: 2560 x 1.
    assert where(core.arrive("r1", 2560, blocks=(1, 2, 3, 4, 5))) == warm
    core.first_token("r1")
    # Warm: 1024 x 3 = 3072. Cold: 3072 x 1. The smaller batch.
    assert where(core.arrive("r2", 3072, blocks=(1, 2, 3, 4, 8, 9))) != warm


def test_prefill_that_is_not_done_counts_as_tokens(script):
    core = script("a", "b", policy="lmetric")
    first = where(core.arrive("r0", 1000))
    second = where(core.arrive("r1", 100))
    assert first != second
    assert where(core.arrive("r2", 100)) == second  # (1000 + 100) x 2 against (100 + 100) x 2


def test_a_larger_batch_needs_a_larger_saving(script):
    core = script("a", "b", policy="lmetric")
    warm = where(core.arrive("r0", 1024, blocks=(1, 2)))
    core.first_token("r0")
    batches = 1
    while where(core.arrive(f"s{batches}", 1536, blocks=(1, 2, 100 + batches))) == warm:
        core.first_token(f"s{batches}")
        batches += 1
    assert batches == 2  # 512 x 2 < 1536 x 1 <= 512 x 3, where the smaller batch wins the tie


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="lmetric")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
