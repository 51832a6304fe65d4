"""What the APIs of one simulated server share: its models, its limits, what it remembers."""

from dataclasses import dataclass

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.media import MediaTokens
from dualmap.instances.simulated.response_store import ResponseStore
from dualmap.router.http.openai_errors import RequestRefusedError, unknown_model
from dualmap.scheduler.blocks import root_hash


class Models:
    """path: of the base model. names: as clients call it; answers bear the first one. adapters: path by name."""

    def __init__(self, path: str, adapters: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> None:
        """names: empty: its path is its name."""
        self.path = path
        self.names = names or (path,)
        self.adapters = dict(zip(adapters, adapters, strict=True))

    @property
    def base(self) -> str:
        return self.names[0]

    def check(self, asked: str | None) -> str:
        """The model that serves the request: the base model if none is named. Raises RequestRefusedError."""
        if not asked or asked in self.names:
            return self.base
        if asked not in self.adapters:
            raise RequestRefusedError(unknown_model(asked))
        return asked

    def root(self, model: str) -> int:
        """Of the blocks: what an adapter computes is found by that adapter only."""
        return 0 if model == self.base else root_hash(model.encode(), b"", b"")


@dataclass(slots=True)
class Served:
    """store: None: responses are not kept."""

    profile: EngineProfile
    models: Models
    media: MediaTokens
    store: ResponseStore | None = None
