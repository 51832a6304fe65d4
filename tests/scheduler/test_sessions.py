"""Sessions that clients name: hints for homes and for ties, and never more."""

import pytest

from dualmap.scheduler.pick import SESSION_SHARE
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.sessions import Sessions

SESSION = 0x5E55_1010


def instance_of(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_prompts_of_a_session_without_any_block_have_one_pair_of_homes(script):
    core = script(*"abcdefgh")
    for i in range(20):
        core.arrive(f"r{i}", 100, session=SESSION)
        core.arrive(f"other{i}", 100, session=SESSION + i)
        core.arrive(f"none{i}", 100)
    assert len({core.attempt(f"r{i}").candidates for i in range(20)}) == 1
    assert len({core.attempt(f"other{i}").candidates for i in range(20)}) > 5
    assert len({core.attempt(f"none{i}").candidates for i in range(20)}) > 5


def test_the_first_blocks_of_a_prompt_are_its_key_whatever_its_session(script):
    core = script(*"abcdefgh")
    prompt = core.prompt("d")
    core.arrive("plain", 1000, blocks=prompt)
    for i in range(6):  # few enough to be no crowd
        core.arrive(f"r{i}", 1000, blocks=prompt, session=SESSION + i)
        assert core.attempt(f"r{i}").candidates == core.attempt("plain").candidates


def test_a_session_stays_where_it_was_among_instances_that_are_equal(script):
    core = script(*"abcdefgh")
    homes = [core.prompt("abcdefgh"[i], other_than=i) for i in range(8)]
    at = instance_of(core.arrive("first", 600, blocks=homes[0], session=SESSION))
    core.finish("first")
    for i, prompt in enumerate(homes[1:]):  # other prompts, which no instance holds
        (dispatch,) = core.arrive(f"r{i}", 600, blocks=prompt, session=SESSION)
        assert dispatch.instance_id == at
        core.finish(f"r{i}")
    for i, prompt in enumerate(core.prompt("h", other_than=20 + i) for i in range(8)):  # nor do homes that it left
        core.arrive(f"without {i}", 600, blocks=prompt)
        core.finish(f"without {i}")
    assert core.core.books.sessions.ran_at(SESSION) == at


def test_the_reason_says_that_it_was_the_session(script):
    core = script(*"abcdefgh")
    at = instance_of(core.arrive("first", 600, blocks=core.prompt("a", "b"), session=SESSION))
    core.finish("first")
    (dispatch,) = core.arrive("next", 600, blocks=core.prompt("c", "d"), session=SESSION)
    assert (dispatch.instance_id, dispatch.reason) == (at, ChoiceReason.SESSION)
    assert core.attempt("next").candidates == ("c", "d")


@pytest.mark.parametrize(("more_tokens", "stays"), [(-1, True), (1, False)])
@pytest.mark.parametrize("slo_s", [5.0, 40.0])
def test_noise_is_a_share_of_the_objective(script, slo_s: float, more_tokens: int, stays: bool):
    core = script(*"abcdefgh", ttft_slo_s=slo_s, decode_s_per_request=0.0)
    at = instance_of(core.arrive("first", 600, blocks=core.prompt("a", "b"), session=SESSION))
    core.finish("first")
    core.arrive("in the way", int(SESSION_SHARE * slo_s * 1000) + more_tokens, only=(at,))
    core.arrive("next", 1, blocks=core.prompt("c", "d"), session=SESSION)
    assert (core.attempt("next").instance_id == at) == stays


def test_an_idle_instance_wins_where_the_sessions_one_would_be_noticeably_later(script):
    core = script(*"abcdefgh", ttft_slo_s=5.0)
    at = instance_of(core.arrive("first", 600, blocks=core.prompt("a", "b"), session=SESSION))
    core.finish("first")
    prompt = core.prompt("c", "d")
    noise_tokens = int(SESSION_SHARE * 5.0 * 1000)
    core.arrive("in the way", noise_tokens + 1, only=(at,))
    assert instance_of(core.arrive("r1", 600, blocks=prompt, session=SESSION)) in "cd"
    core.finish("r1")
    assert instance_of(core.arrive("r2", 600, blocks=prompt, session=SESSION)) in "cd"  # where it was meanwhile


def test_a_longer_cached_prefix_wins_over_the_session(script):
    core = script(*"abcdefgh")
    held, other = core.prompt("c", "d"), core.prompt("a", "b")
    warm = instance_of(core.arrive("warm", 1024, blocks=held))
    core.finish("warm")
    at = instance_of(core.arrive("first", 1024, blocks=other, session=SESSION))
    core.finish("first")
    assert at != warm
    (dispatch,) = core.arrive("next", 1024, blocks=held, session=SESSION)
    assert (dispatch.instance_id, dispatch.reason) == (warm, ChoiceReason.WARM)


@pytest.mark.parametrize("how", ["drains", "is lost", "failed the request"])
def test_an_instance_that_cannot_take_it_is_nobodys_home(script, how: str):
    core = script(*"abcdefgh")
    at = instance_of(core.arrive("first", 600, blocks=core.prompt("a", "b"), session=SESSION))
    core.finish("first")
    if how == "drains":
        core.drain(at)
    elif how == "is lost":
        core.lose(at)
    commands = core.arrive("next", 600, blocks=core.prompt("c", "d"), session=SESSION)
    if how == "failed the request":
        assert instance_of(commands) == at
        commands = core.fail("next")
    assert instance_of(commands) != at


def test_a_session_is_where_its_last_request_ran_not_where_it_was_placed(script):
    core = script("a", "b", rebalancing=True)
    core.arrive("long", 5000, blocks=core.prompt("a"))
    waits_at = "a" if core.view("a").running_count else "b"
    other = "b" if waits_at == "a" else "a"
    core.arrive("waits", 900, only=(waits_at,), session=SESSION)
    assert core.core.books.sessions.ran_at(SESSION) is None
    core.cancel("waits")
    core.arrive("runs", 900, only=(other,), session=SESSION)
    assert core.core.books.sessions.ran_at(SESSION) == other


def test_a_bounded_number_of_sessions_is_remembered_the_last_ones():
    sessions = Sessions(max_sessions=8)
    for session in range(1, 100):
        sessions.note(session, f"i{session % 3}")
        sessions.note(7, "often")
        sessions.check()
        assert len(sessions) <= 8
        assert sessions.ran_at(7) == "often"
        recent = [s for s in range(max(1, session - 1), session + 1) if s != 7]
        assert all(sessions.ran_at(s) == f"i{s % 3}" for s in recent)
    assert sessions.ran_at(1) is None
    assert len(sessions) >= 4
