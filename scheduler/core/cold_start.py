"""Requests that no instance can run wait for one that can, instead of being refused (held_requests.py)."""

from dualmap.scheduler.admission import reject_held_too_long, reject_no_instance
from dualmap.scheduler.commands import Command
from dualmap.scheduler.core.arrival import place, reject
from dualmap.scheduler.core.books import Books


def release_held(books: Books, now: float, commands: list[Command]) -> None:
    """An instance has come, or offers something else: place what can run by now, the most important first."""
    for held in books.held.in_order():
        request = held.request
        if not books.is_runnable(request):
            continue
        books.held.remove(request.id)
        held_s = held.held_s + now - held.since
        place(
            books,
            request,
            now,
            commands,
            number=held.number,
            arrived_at=held.arrived_at,
            tried=held.tried,
            held_s=held_s,
            legs_done=held.legs_done,
        )


def end_overdue(books: Books, now: float, commands: list[Command]) -> None:
    """No instance has come in time."""
    for held in books.held.overdue(books.config.cold_start_timeout_s or 0.0, now):
        request = held.request
        books.held.remove(request.id)
        client_waits = now < held.client_due_s
        rejected = reject_no_instance(request.id) if client_waits else reject_held_too_long(request.id)
        reject(books, request, rejected, commands)
