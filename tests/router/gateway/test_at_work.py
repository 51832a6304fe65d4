from dualmap.router.gateway.at_work import AtWork
from dualmap.scheduler import Request, RequestArrived, Scheduler, SchedulerConfig


def test_it_is_at_work_while_there_are_requests_and_for_a_look_after_those_that_came_and_went():
    scheduler, in_flight = Scheduler(SchedulerConfig()), {}
    at_work = AtWork([scheduler], in_flight)
    seen = []

    def look() -> None:
        at_work.look()
        seen.append(at_work.is_set())

    look()
    in_flight["a"] = None
    look()
    look()
    in_flight.clear()
    look()
    scheduler.handle(RequestArrived(Request("b", (1,), 100)), 1.0)
    look()
    look()
    assert seen == [False, True, True, False, True, False]
