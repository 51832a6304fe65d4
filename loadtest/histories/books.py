"""A journal replayed: whether the core does the same again, and whether what it booked is free in the end."""

from collections.abc import Iterable

from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.router.journal.format import Record
from dualmap.router.journal.replay import handle_again
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler

CHECK_EVERY = 100  # records; a check looks at all that is kept
MOST_FAULTS = 5  # once the books are wrong, they stay so


def replayed(
    records: Iterable[Record], config: SchedulerConfig, where: str = "", *, check_every: int = CHECK_EVERY
) -> tuple[Scheduler, list[Fault]]:
    """The core as it was at the end."""
    core = Scheduler(config)
    faults: list[Fault] = []
    for number, record in enumerate(records, start=1):
        commands, error = handle_again(core, record)
        if commands != record.commands or error != record.error:
            says = f"{type(record.event).__name__} gave {record.error or record.commands}, and now {error or commands}"
            faults.append(Fault(Rule.REPLAYS, f"event {number}", says, where))
            break  # from here on it is another run
        if number % check_every == 0:
            faults += book_faults(core, f"after event {number}", where)
        if len(faults) >= MOST_FAULTS:
            break
    return core, [*faults, *book_faults(core, "at the end", where)]


def book_faults(core: Scheduler, about: str = "", where: str = "") -> list[Fault]:
    """What contradicts itself in the books; what is booked on instances though nothing is in flight."""
    try:
        core.check()
    except AssertionError as error:
        return [Fault(Rule.GIVEN_BACK, about, f"the books contradict themselves: {error}", where)]
    if core.attempts:
        return []
    found = []
    for view in core.instances.values():
        booked = {
            "waiting": view.waiting_count,
            "running": view.running_count,
            "waiting tokens": view.waiting_tokens,
            "prefill tokens": view.booked_prefill_tokens,
            "KV tokens": view.booked_kv_tokens,
        }
        left = ", ".join(f"{amount} {name}" for name, amount in booked.items() if amount)
        if left:
            says = f"nothing is in flight, and {view.instance_id} has {left}"
            found.append(Fault(Rule.GIVEN_BACK, about, says, where))
    return found


def open_faults(core: Scheduler, where: str = "") -> list[Fault]:
    """Requests that are in flight still, at the end of a history that was closed."""
    return [Fault(Rule.ENDS_ONCE, i, "is in flight at the end", where) for i in (*core.attempts, *core.held.ids())]
