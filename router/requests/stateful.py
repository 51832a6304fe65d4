"""Requests that go on from what one instance keeps: they reach the core once it is known which, or so that it asks them
all."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b

from dualmap.router.apis.state_ids import MAX_STATE_ID
from dualmap.router.http.openai_errors import HttpError, bad_request, state_gone, unavailable, unknown_state
from dualmap.router.requests.asked import Arrived
from dualmap.router.requests.core import Core
from dualmap.router.requests.driven import Driven
from dualmap.router.requests.intake import TENANT_HEADER
from dualmap.router.requests.state_homes import StateHomes
from dualmap.scheduler.commands import RejectReason
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.fleet.state_board import StateHome

HOLD_S = 0.5  # what another gateway learned at that moment is heard within a few round trips to Fleet
MAX_HELD = 1000  # requests at once
SEARCH_GOES_ON = (RejectReason.NO_INSTANCE, RejectReason.ATTEMPTS_EXHAUSTED)


class Stateful:
    """homes: what is known. cores: by instance, of all that serve. others: there are other gateways, which know more.
    ask: wants their news at once."""

    def __init__(
        self, pools: Mapping[str, Core], arrive: Callable[[Driven], None], refuse: Callable[[Driven, HttpError], None]
    ) -> None:
        """pools: their cores, in the order in which they are searched. arrive: takes a request to the core, unless its
        client has left; refuse: answers it with an error, unless so."""
        self.homes = StateHomes()
        self.cores: Mapping[str, Core] = {}
        self.others = False
        self.ask: Callable[[], None] = lambda: None
        self._pools = tuple(pools.values())
        self._arrive = arrive
        self._refuse = refuse
        self._heard = asyncio.Event()
        self._held: set[asyncio.Task[None]] = set()

    def begin(self, driven: Driven) -> None:
        """Find the home of what a request goes on from. driven: admitted, by whatever core.

        Without API keys whoever knows an id may use it, so that the instances can be asked. With them, what is not
        known to be the client's own is not there.
        """
        arrived, asked = driven.arrived, driven.asked
        state_id = asked.prompt.read.state
        owner = owner_of(arrived)
        home = self.homes.find(state_id, owner)
        if len(state_id) > MAX_STATE_ID:
            self._refuse(driven, bad_request(f"The id of what to go on from is longer than {MAX_STATE_ID} characters."))
        elif home is not None:
            self._go_home(driven, home)
        elif arrived.grant is None:
            others = () if asked.prompt.read.model else tuple(core for core in self._pools if core is not asked.core)
            request = replace(asked.request, stateful=True)
            driven.admitted(replace(asked, request=request, other_cores=others))
            self._arrive(driven)
        elif self.others and len(self._held) < MAX_HELD:
            task = asyncio.get_running_loop().create_task(self._hold(driven, owner))
            self._held.add(task)
            task.add_done_callback(self._held.discard)
        else:
            self._refuse(driven, unknown_state(state_id))

    def search_on(self, driven: Driven, reason: RejectReason) -> bool:
        """Whether a request that was rejected by one pool goes to another."""
        asked = driven.asked
        if not asked.other_cores or reason not in SEARCH_GOES_ON:
            return False
        driven.admitted(replace(asked, core=asked.other_cores[0], other_cores=asked.other_cores[1:]))
        self._arrive(driven)
        return True

    def gone(self, driven: Driven, why: RejectReason | FailureCause) -> HttpError | None:
        """What the client is told where its request ended because what it goes on from is lost; None where it did
        not."""
        home = driven.asked.request.home
        if home is None or why not in (RejectReason.NO_INSTANCE, FailureCause.CONNECT):
            return None
        return state_gone(driven.asked.prompt.read.state, home)

    def made(self, driven: Driven, state_id: str, instance_id: str) -> None:
        """An instance keeps something for the client from now on, or was found to."""
        if self.homes.note(StateHome(state_id, instance_id, owner_of(driven.arrived))) and self.others:
            self.ask()

    def hear(self, homes: tuple[StateHome, ...]) -> None:
        """What any of the gateways learned; also where that is nothing."""
        self.homes.hear(homes)
        self._heard.set()
        self._heard = asyncio.Event()

    def _go_home(self, driven: Driven, home: str) -> None:
        asked = driven.asked
        core = self.cores.get(home)
        if core is None or (asked.request.only and home not in asked.request.only):
            self._refuse(driven, state_gone(asked.prompt.read.state, home))
            return
        request = replace(asked.request, only=(home,), stateful=True)
        driven.admitted(replace(asked, request=request, core=core))
        self._arrive(driven)

    async def _hold(self, driven: Driven, owner: str) -> None:
        """The gateway that answered the client may have learned the id a moment ago."""
        state_id = driven.asked.prompt.read.state
        home = None
        heard = False
        try:
            async with asyncio.timeout(HOLD_S):
                while home is None:
                    self.ask()
                    await self._heard.wait()
                    heard = True
                    home = self.homes.find(state_id, owner)
        except TimeoutError:
            pass
        if home is not None:
            self._go_home(driven, home)
        elif heard:
            self._refuse(driven, unknown_state(state_id))
        else:
            self._refuse(driven, unavailable("What other gateways know of it cannot be asked now."))


def owner_of(arrived: Arrived) -> str:
    """Whose the state is that the request makes or goes on from: its tenant's, else its key's; empty where no keys are
    asked for."""
    if arrived.grant is None:
        return ""
    key = arrived.grant.key
    if key.tenant is not None:
        who = b"tenant " + key.tenant.encode()
    else:  # a key for many tenants
        who = b"key " + key.sha256.encode() + b" " + arrived.http.fields.get(TENANT_HEADER, b"")
    return blake2b(who, digest_size=16).hexdigest()
