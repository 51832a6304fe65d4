"""Which requests come in: what a request says is read and checked, and what it asks for is made of it."""

from collections.abc import Callable, Mapping

from dualmap.router.access.access import Grant
from dualmap.router.apis.api import PREFIX, STATE, Scope
from dualmap.router.apis.model_list import ModelList
from dualmap.router.http.openai_errors import (
    HttpError,
    RequestRefusedError,
    missing_model,
    unavailable,
    unknown_model,
)
from dualmap.router.requests.asked import Arrived, Asked, Prompt
from dualmap.router.requests.core import Core
from dualmap.router.requests.intake import read_prompt, read_session, read_tenant, read_times, session_tenant
from dualmap.router.tokens.token_ratio import TokenRatio
from dualmap.scheduler.fleet.member import Membership
from dualmap.scheduler.request import Request

NOT_KNOWN_YET = "No instance is known to serve the model yet."


class NotAdmittedError(RequestRefusedError):
    """prompt: None where the request could not be read."""

    def __init__(self, error: HttpError, prompt: Prompt | None) -> None:
        super().__init__(error)
        self.prompt = prompt


class Admission:
    """models, ready: as of the membership in use. ready: some instance is. stopping: requests that still come are
    turned away. cores: by pool, the first one first. ratio: what is learned of the bytes of a token."""

    def __init__(
        self,
        cores: Mapping[str, Core],
        block_tokens: int,
        clock: Callable[[], float],
        ask_for_usage: bool = True,
        isolate_tenants: bool = False,
    ) -> None:
        """cores: by pool, the first one first. ask_for_usage: streams whose client says nothing of `stream_options`
        report it to the gateway alone. isolate_tenants: no two of them share a cached prefix."""
        self.models = ModelList(Membership(), next(iter(cores)))
        self.ready = False
        self.stopping = False
        self.ratio = TokenRatio()
        self.cores = cores
        self._block_tokens = block_tokens
        self._clock = clock
        self._ask_for_usage = ask_for_usage
        self._isolate_tenants = isolate_tenants

    def admit(self, arrived: Arrived) -> Asked:
        """Raises NotAdmittedError with what the client is told."""
        prompt = None
        try:
            grant, placement = arrived.grant, arrived.api.placement
            ttft_slo_s, tpot_slo_s, timeout_s = read_times(arrived.http)
            tenant = read_tenant(arrived)
            apart = tenant if self._isolate_tenants else ""
            scope = Scope(self._block_tokens, apart, self.models.only_model)
            prompt = read_prompt(arrived, scope, self.ratio, self._ask_for_usage)
            model = prompt.model
            if grant is not None and placement is not STATE:
                self._check_model(grant, model)
            core = self._core_of(model, placement is PREFIX and prompt.read.legible)
            answer_lines = b"" if grant is None else grant.admit(prompt.tokens, self._clock())
        except RequestRefusedError as refusal:
            raise NotAdmittedError(refusal.error, prompt) from None
        read = prompt.read
        session = read_session(arrived, read.session)
        request = Request(
            arrived.id,
            read.blocks if read.cached else (),
            prompt.tokens,
            max_output_tokens=read.max_output_tokens,
            ttft_slo_s=ttft_slo_s,
            priority=prompt.priority,
            tenant=tenant or session_tenant(session),
            streams=read.stream,
            block_tokens=prompt.block_tokens,
            adapter=self.models.lora_name(model),
            timeout_s=timeout_s,
            only=arrived.only,
            tpot_slo_s=tpot_slo_s,
            key_blocks=() if read.cached else read.blocks,
            session=session if placement is PREFIX else 0,  # others reuse nothing
        )
        return Asked(prompt=prompt, request=request, core=core, answer_lines=answer_lines)

    def _check_model(self, grant: Grant, model: str) -> None:
        """Raises RequestRefusedError (400, 404, 503)."""
        if not model and grant.key.models is not None:  # the instance would choose one
            raise RequestRefusedError(missing_model() if len(self.cores) > 1 else unavailable(NOT_KNOWN_YET))
        grant.check_model(model)

    def _core_of(self, model: str, must_name: bool) -> Core:
        """The pool that serves the model. Raises RequestRefusedError (400, 404, 503)."""
        if must_name and not model and len(self.cores) > 1:
            raise RequestRefusedError(missing_model())
        pool = self.models.pool_of(model)
        if pool is None:
            raise RequestRefusedError(unavailable(NOT_KNOWN_YET) if self.models.silent else unknown_model(model))
        return self.cores[pool]
