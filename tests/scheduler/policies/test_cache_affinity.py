"""cache_affinity: the prefix names the instance."""


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_equal_prefixes_go_to_one_instance_whatever_its_load(script):
    core = script(*"abcdefgh", policy="cache_affinity")
    assert len({where(core.arrive(f"r{i}", 50_000, blocks=(1, 2, 100 + i))) for i in range(20)}) == 1


def test_prompts_that_differ_in_the_second_block_are_told_apart(script):
    core = script(*"abcdefgh", policy="cache_affinity")
    assert {where(core.arrive(f"r{i}", blocks=(1, 1000 + i))) for i in range(200)} == set("abcdefgh")


def test_a_prompt_of_one_block_is_placed_by_that_and_one_of_none_anywhere(script):
    core = script(*"abcdefgh", policy="cache_affinity")
    assert len({where(core.arrive(f"r{i}", blocks=(7,))) for i in range(9)}) == 1
    assert len({where(core.arrive(f"s{i}")) for i in range(99)}) == 8


def test_only_the_prefixes_of_a_lost_instance_move(script):
    core = script(*"abcdefgh", policy="cache_affinity")
    before = [where(core.arrive(f"r{i}", blocks=(1, i))) for i in range(100)]
    for i in range(100):
        core.finish(f"r{i}")
    core.lose("c")
    after = [where(core.arrive(f"s{i}", blocks=(1, i))) for i in range(100)]
    assert [b for b in before if b != "c"] == [a for a, b in zip(after, before, strict=True) if b != "c"]
