"""API keys: whose requests are served, and how many. The file holds their hashes only:

    keys:
      - sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        tenant: search                   # gets its fair share of the queue, and a part of the caches of its own
        models: [llama]                  # omitted: all
        requests_per_minute: 600         # omitted: as many as the fleet bears
        tokens_per_minute: 1000000       # of prompts and answers together
        admin: true                      # may load and unload LoRA adapters; omitted: may not
        kv_transfer: true                # may tell instances where to fetch KV caches; omitted: may not

`dualmap key` makes a key and its lines. A key has 256 random bits, so that its plain hash can be tried out by nobody.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

KEY_PREFIX = "dm-"


class ApiKeysError(Exception):
    """The file cannot be used; the message names file, place and rule, and no key."""


class ApiKey(BaseModel):
    """tenant: None for one who carries requests of many, and names theirs in x-dualmap-tenant. models: None: all.
    requests_per_minute, tokens_per_minute: None: without a limit. admin: may change what instances serve. kv_transfer:
    may tell instances where to fetch KV caches, see transfer_fields.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    models: frozenset[str] | None = None
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    admin: bool = False
    kv_transfer: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[ApiKey]


def load_api_keys(path: Path) -> Mapping[str, ApiKey]:
    """By hash. Raises ApiKeysError."""
    try:
        with path.open("rb") as file:  # of bytes: an error of YAML quotes the line of a text
            values: Any = yaml.safe_load(file)
    except OSError as error:
        raise ApiKeysError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-45 is a ValueError
        raise ApiKeysError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        keys = _File.model_validate(values).keys
    except ValidationError as error:
        places = (f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in error.errors())
        raise ApiKeysError(f"{path}: {'; '.join(places)}") from None
    by_hash = {key.sha256: key for key in keys}
    if len(by_hash) < len(keys):
        raise ApiKeysError(f"{path}: two keys have the same hash")
    return by_hash


def find_key(keys: Mapping[str, ApiKey], given: Iterable[bytes]) -> ApiKey | None:
    """The first of the given ones that is known; None where none is."""
    for digest in map(hash_key, given):
        key = keys.get(digest)
        if key is not None and compare_digest(key.sha256, digest):
            return key
    return None


def hash_key(key: bytes) -> str:
    return sha256(key).hexdigest()
