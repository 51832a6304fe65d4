"""Who may use the fleet: each request's API key, what it allows, and how much of it is left."""

import logging
from collections.abc import Callable
from pathlib import Path

from dualmap.router.access.api_keys import ApiKey, ApiKeysError, find_key, load_api_keys
from dualmap.router.access.rate_limit import Bucket, RateLimit
from dualmap.router.http.credentials import CREDENTIAL_FIELDS, credentials
from dualmap.router.http.hop_by_hop import without_fields
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import (
    HttpError,
    RequestRefusedError,
    rate_limited,
    unauthorized_key,
    unknown_model,
)

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0  # how soon a changed file holds


class Grant:
    """What a request's key allows."""

    def __init__(self, key: ApiKey, now: float) -> None:
        self.key = key
        self.limit = RateLimit(Bucket(key.requests_per_minute, now), Bucket(key.tokens_per_minute, now))

    def check_model(self, named: str, served: str) -> None:
        """A key for a model is for all names of it, and one for an alias for that alone. Raises RequestRefusedError
        (404): a model that the key may not use is not told from one that is not there."""
        if self.key.models is not None and self.key.models.isdisjoint((named, served)):
            raise RequestRefusedError(unknown_model(named))

    def admit(self, prompt_tokens: int, now: float) -> bytes:
        """Count a request; returns what the head of its answer says of it. Raises RequestRefusedError (429), which
        counts nothing."""
        retry_after_s = self.limit.retry_after_s(prompt_tokens, now)
        if retry_after_s is not None:
            raise RequestRefusedError(rate_limited(retry_after_s, self.limit.header_lines(now)))
        self.limit.take(prompt_tokens, now)
        return self.limit.header_lines(now)


class Access:
    """The keys of a file, which may change while they are in use: a broken file changes nothing."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Raises ApiKeysError."""
        self._path = path
        self._clock = clock
        self._keys = load_api_keys(path)
        self._version = _version(path)
        self._grants: dict[str, Grant] = {}  # by hash
        self._share = 1.0
        self._looked_at = clock()

    def check(self, request: HttpRequest) -> HttpError | None:
        """Whether the request's key is known; its instance is told neither this nor any other that came with it."""
        if self._key_of(request) is None:
            return unauthorized_key()
        request.forwarded = without_fields(request.forwarded, CREDENTIAL_FIELDS)
        return None

    def grant(self, request: HttpRequest) -> Grant:
        """What the request's key allows. Raises RequestRefusedError (401) where the key is not known any more."""
        key = self._key_of(request)
        if key is None:
            raise RequestRefusedError(unauthorized_key())
        grant = self._grants.get(key.sha256)
        if grant is None:
            grant = self._grants[key.sha256] = Grant(key, self._clock())
            grant.limit.set_share(self._share)
        return grant

    def _key_of(self, request: HttpRequest) -> ApiKey | None:
        return find_key(self._keys, credentials(request.fields))

    def set_gateways(self, count: int) -> None:
        """So many grant the limits together, each its part."""
        self._share = 1.0 / max(1, count)
        for grant in self._grants.values():
            grant.limit.set_share(self._share)

    def sweep(self, now: float) -> None:
        """Take over a changed file; called periodically."""
        if now - self._looked_at < LOOK_INTERVAL_S:
            return
        self._looked_at = now
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = load_api_keys(self._path)
        except ApiKeysError as error:
            logger.error("API keys stay as they are: %s", error)
            return
        logger.info("API keys read again: %d", len(self._keys))
        self._grants = {i: grant for i, grant in self._grants.items() if self._keys.get(i) == grant.key}


def _version(path: Path) -> tuple[int, int, int]:
    """Another one for another file; a mounted secret is a link that is swapped."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)
