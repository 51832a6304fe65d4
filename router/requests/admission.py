"""Which requests come in: what a request says is read and checked, and what it asks for is made of it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from dualmap.router.access.access import Grant
from dualmap.router.apis.api import PREFIX, STATE
from dualmap.router.apis.model_list import ModelList
from dualmap.router.apis.read_body import Scope
from dualmap.router.apis.transfer_fields import check_transfer_fields
from dualmap.router.http.openai_errors import (
    HttpError,
    RequestRefusedError,
    missing_model,
    unavailable,
    unknown_model,
)
from dualmap.router.legs.connector import Connector
from dualmap.router.legs.nixl import Nixl
from dualmap.router.requests.asked import Arrived, Asked, Prompt
from dualmap.router.requests.cold_models import ColdModels
from dualmap.router.requests.core import Core
from dualmap.router.requests.intake import (
    READ_HEADERS,
    read_prompt,
    read_session,
    read_tenant,
    read_times,
    session_tenant,
)
from dualmap.router.tokens.token_ratio import TokenRatio
from dualmap.scheduler.fleet.member import Membership, MemberState
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import Role

ONLY_PREFILL = "The instances that are ready only compute prompts: none that answers is ready."
NOT_KNOWN_YET = "No instance is known to serve the model yet."
LENGTH_MARGIN = 1.1  # a prompt may have so many times the tokens that its bytes let expect, or so many times fewer
SPARSE_BYTES_PER_TOKEN = 5.0  # few texts have more, whatever servers have reported of others


class NotAdmittedError(RequestRefusedError):
    """prompt: None where the request could not be read."""

    def __init__(self, error: HttpError, prompt: Prompt | None) -> None:
        super().__init__(error)
        self.prompt = prompt


class Admission:
    """models, ready: as of the membership in use. ready: one that answers is, or requests are held until one is.
    stopping: requests that still come are turned away. cores: by pool, the first one first; pool_names: the other way
    round. ratio: what is learned of the bytes of a token. by_text: streams may go on by their text."""

    def __init__(
        self,
        cores: Mapping[str, Core],
        block_tokens: int,
        clock: Callable[[], float],
        ask_for_usage: bool = True,
        isolate_tenants: bool = False,
        ask_for_ids: bool = False,
        named: Mapping[str, Collection[str]] | None = None,
        connectors: Mapping[Core, Connector] | None = None,
    ) -> None:
        """cores: by pool, the first one first. ask_for_usage: streams whose client says nothing of `stream_options`
        report it to the gateway alone. isolate_tenants: no two of them share a cached prefix. ask_for_ids: see
        read_prompt. named: see ColdModels. connectors: by core; None: NIXL."""
        self.models = ModelList(Membership(), next(iter(cores)))
        self.ready = False
        self.stopping = False
        self.ratio = TokenRatio()
        self._membership = Membership()
        self._cold = ColdModels(named or {})
        self._aliases: Mapping[str, str] = {}
        self.cores = cores
        self._connectors = connectors or dict.fromkeys(cores.values(), Nixl())
        self.pool_names = {core: name for name, core in cores.items()}
        self._block_tokens = block_tokens
        self._clock = clock
        self._ask_for_usage = ask_for_usage
        self._isolate_tenants = isolate_tenants
        self._ask_for_ids = ask_for_ids
        self.by_text = False
        self._changes_bodies = True
        self._has_ranks = False
        self._scope = Scope(block_tokens)  # of whom nobody is kept apart from

    def change_no_body(self) -> None:
        """A proxy sends the bodies, as they came: nothing can be asked for in them."""
        self._ask_for_usage = self._ask_for_ids = self.by_text = self._changes_bodies = False

    def set_holding(self, pools: Iterable[str]) -> None:
        """Pools, by name, whose requests are held from now on while no instance can run them."""
        self._cold.holding = frozenset(pools)
        self.apply_membership(self._membership)

    def set_aliases(self, aliases: Mapping[str, str]) -> None:
        """Names that clients use from now on, and what instances call the models."""
        self._aliases = aliases
        self.apply_membership(self._membership)

    def apply_membership(self, membership: Membership) -> None:
        self._membership = membership
        known, unknown_pool = self._cold.with_stand_ins(membership)
        self.models = ModelList(known, next(iter(self.cores)), self._aliases, unknown_pool)
        has_roles = self._changes_bodies and any(m.role is not Role.BOTH for m in membership.members)
        self._has_ranks = any(m.endpoint.rank is not None for m in membership.members)
        self._scope = Scope(self._block_tokens, "", self.models.only_model, self.models.same, has_roles)
        ready = any(m.state is MemberState.READY and m.role is not Role.PREFILL for m in membership.members)
        self.ready = ready or bool(self._cold.holding)

    def admit(self, arrived: Arrived) -> Asked:
        """Raises NotAdmittedError with what the client is told."""
        prompt = None
        try:
            http, grant, placement = arrived.http, arrived.grant, arrived.api.placement
            ttft_slo_s = tpot_slo_s = timeout_s = None
            tenant = ""
            says_nothing = READ_HEADERS.isdisjoint(http.fields)  # of the headers that are read here
            if not says_nothing:
                ttft_slo_s, tpot_slo_s, timeout_s = read_times(http)
            if grant is not None or not says_nothing:
                tenant = read_tenant(arrived)
            if self._isolate_tenants if grant is None else not grant.key.kv_transfer:
                check_transfer_fields(http, arrived.body)
            models, scope = self.models, self._scope
            if self._isolate_tenants and tenant:
                scope = replace(scope, apart=tenant)
            prompt = read_prompt(
                arrived,
                scope,
                self.ratio,
                self._ask_for_usage,
                models.aliases,
                ask_for_ids=self._ask_for_ids,
                by_text=self.by_text,
            )
            read, model = prompt.read, prompt.model
            if grant is not None and placement is not STATE:
                self._check_model(grant, prompt)
            core = self._core_of(prompt, placement is PREFIX and read.legible)
            answer_lines = b"" if grant is None else grant.admit(prompt.tokens, self._clock())
        except RequestRefusedError as refusal:
            raise NotAdmittedError(refusal.error, prompt) from None
        session = 0 if says_nothing and not read.session else read_session(arrived, read.session)
        length_tokens = 0  # of what is not read: it may be many short texts
        margin = 1.0 if read.prompt_tokens else LENGTH_MARGIN
        if read.understood:
            tokens = prompt.tokens
            if not read.prompt_tokens:
                tokens = max(tokens, int(read.text_bytes / SPARSE_BYTES_PER_TOKEN))
            length_tokens = self.length_to_ask(model, tokens, read.max_output_tokens, margin)
        connector = self._connectors[core] if read.splits else None
        if connector is not None and connector.needs_rank and self._has_ranks and arrived.api.chooses_rank:
            connector = None
        if connector is not None and self.is_too_long(model, prompt.tokens, read.max_output_tokens, margin):
            connector = None  # it is refused before anything of it is computed
        request = Request(
            arrived.id,
            read.blocks if read.cached else (),
            prompt.tokens,
            max_output_tokens=read.max_output_tokens,
            ttft_slo_s=ttft_slo_s,
            priority=prompt.priority,
            tenant=tenant or (session_tenant(session) if session else ""),
            streams=read.stream,
            block_tokens=prompt.block_tokens,
            adapter=models.lora_name(model),
            timeout_s=timeout_s,
            only=arrived.only,
            tpot_slo_s=tpot_slo_s,
            key_blocks=() if read.cached else read.blocks,
            session=session if placement is PREFIX else 0,  # others reuse nothing
            model=model,
            length_tokens=length_tokens,
            may_split=connector is not None,
        )
        return Asked(prompt=prompt, request=request, core=core, answer_lines=answer_lines, connector=connector)

    def length_to_ask(self, model: str, prompt_tokens: int, max_output_tokens: int, margin: float) -> int:
        """See Request.length_tokens. margin: the prompt may have so many times the tokens."""
        answer = max(1, max_output_tokens)
        return self.models.length_to_ask(model, prompt_tokens + answer, int(prompt_tokens * margin) + answer)

    def is_too_long(self, model: str, prompt_tokens: int, max_output_tokens: int, margin: float) -> bool:
        """Whether no instance takes prompt and answer together, as far as is known, though the prompt may have so many
        times fewer tokens."""
        least_tokens = int(prompt_tokens / margin) + max(1, max_output_tokens)
        return 0 < self.models.context_tokens(model) < least_tokens

    def gone(self, asked: Asked) -> HttpError | None:
        """What the client is told where nobody serves the model any more; None where somebody does."""
        if self.models.pool_of(asked.request.model) is None and not self.models.silent:
            return unknown_model(asked.prompt.named)
        return None

    def why_nobody(self, asked: Asked) -> HttpError | None:
        """The same, and where those who are ready answer nobody; None where there is no such reason."""
        if (gone := self.gone(asked)) is not None:
            return gone
        pool = self.models.pool_of(asked.request.model)
        ready = [m for m in self._membership.members if m.pool == pool and m.state is MemberState.READY]
        if ready and all(member.role is Role.PREFILL for member in ready):
            return unavailable(ONLY_PREFILL)
        return None

    @property
    def _several_models(self) -> bool:
        return len(self.cores) > 1 or self.models.mixed

    def _check_model(self, grant: Grant, prompt: Prompt) -> None:
        """Raises RequestRefusedError (400, 404, 503)."""
        if not prompt.named and grant.key.models is not None:  # the instance would choose one
            raise RequestRefusedError(missing_model() if self._several_models else unavailable(NOT_KNOWN_YET))
        grant.check_model(prompt.named, prompt.model)

    def _core_of(self, prompt: Prompt, must_name: bool) -> Core:
        """The pool that serves the model. Raises RequestRefusedError (400, 404, 503)."""
        if must_name and not prompt.model and self._several_models:
            raise RequestRefusedError(missing_model())
        pool = self.models.pool_of(prompt.model)
        if pool is None:
            silent = self.models.silent
            raise RequestRefusedError(unavailable(NOT_KNOWN_YET) if silent else unknown_model(prompt.named))
        return self.cores[pool]
