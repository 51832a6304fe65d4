"""How the instances of a pool hand computed prompts over: by a KV connector of vLLM's, each of which stands in a file
beside this one."""

from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.bootstrap import Bootstrap
from dualmap.router.legs.handoff import Handoff
from dualmap.scheduler.commands import Dispatch


class Connector:
    """A class, not a Protocol: both legs of each request call it.

    needs_rank: the answer to a prefill leg does not say which of a server's engines has computed the prompt.
    read_by_itself: an instance that decodes what it has computed reads it as another one would, and so lets go of it.
    waits_for_the_lost: who reads from an instance that dies does not notice.
    nothing_told: what the log says of an instance that hands nothing over."""

    needs_rank = False
    read_by_itself = False
    waits_for_the_lost = False
    nothing_told = ""

    def source(self, pool: UpstreamPool) -> Bootstrap | None:
        """What has to be asked of a server that computes prompts beside its answers. pool: of connections to it."""
        return None

    def lend(self, dispatch: Dispatch) -> bytes:
        """Return the `kv_transfer_params` of a prefill leg, which let its instance keep what it computes."""
        raise NotImplementedError

    def hand_over(self, dispatch: Dispatch, answer: bytes, source: Bootstrap | None) -> Handoff:
        """dispatch, answer: of the prefill leg. source: see there."""
        raise NotImplementedError
