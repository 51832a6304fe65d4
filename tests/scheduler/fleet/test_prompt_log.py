from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.fleet.prompt_log import PROMPT_BLOCKS, PromptLog


def sent(number: int, blocks: int) -> Sent:
    return Sent(f"i{number}", tuple(range(blocks)))


def kept(log: PromptLog[Sent]) -> list[str]:
    return [prompt.instance_id for prompt in log]


def test_the_last_prompts_are_kept_as_many_as_their_blocks_allow():
    log: PromptLog[Sent] = PromptLog(3 * (2 + PROMPT_BLOCKS))
    for number in range(5):
        log.append(sent(number, 2))
    assert kept(log) == ["i2", "i3", "i4"]
    log.append(sent(5, 10))
    assert kept(log) == ["i4", "i5"]
    log.append(Sent("i6", (1,), tuple(range(30))))
    assert kept(log) == ["i6"]


def test_there_is_room_again_once_all_are_told():
    log: PromptLog[Sent] = PromptLog(2 * (2 + PROMPT_BLOCKS))
    log.append(sent(0, 2))
    log.clear()
    for number in (1, 2):
        log.append(sent(number, 2))
    assert kept(log) == ["i1", "i2"]
