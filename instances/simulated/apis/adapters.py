"""/v1/models, and the LoRA adapters that are loaded and unloaded while the server runs, as vLLM does it with
VLLM_ALLOW_RUNTIME_LORA_UPDATING."""

import time
from http import HTTPStatus

import msgspec

from dualmap.instances.simulated.apis.call import Call, Reply
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.served import Served
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError

MOST_ADAPTERS = 1_000  # vLLM has no limit; names come from clients
TEXT = b"text/plain; charset=utf-8"


class _LoadBody(msgspec.Struct):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class _UnloadBody(msgspec.Struct):
    lora_name: str


def list_models(call: Call, served: Served) -> Reply:
    models = served.models
    shared = {"object": "model", "created": int(time.time()), "owned_by": "dualmap"}
    length = {"max_model_len": served.profile.max_model_len}
    cards = [{"id": name, **shared, "root": models.path, "parent": None, **length} for name in models.names]
    cards += [{"id": name, **shared, "root": path, "parent": models.base} for name, path in models.adapters.items()]
    return Reply(msgspec.json.encode({"object": "list", "data": cards}))


def load_adapter(call: Call, served: Served) -> Reply:
    """Any path will do: there is nothing to read. Raises RequestRefusedError."""
    body = read_body(_LoadBody, call.body)
    name, adapters = body.lora_name, served.models.adapters
    if not name or not body.lora_path:
        raise _refused("Both 'lora_name' and 'lora_path' must be provided.")
    if name in served.models.names:
        raise _refused(f"The lora adapter '{name}' conflicts with a served base model.")
    if name in adapters and not body.load_inplace:
        raise _refused(
            f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set"
            " 'load_inplace' to True."
        )
    if name not in adapters and len(adapters) >= MOST_ADAPTERS:
        raise _refused(f"There are {MOST_ADAPTERS} adapters already: no more are held.")
    adapters[name] = body.lora_path
    return Reply(f"Success: LoRA adapter '{name}' added successfully.".encode(), TEXT)


def unload_adapter(call: Call, served: Served) -> Reply:
    """Raises RequestRefusedError."""
    name = read_body(_UnloadBody, call.body).lora_name
    if not name:
        raise _refused("'lora_name' needs to be provided to unload a LoRA adapter.")
    if name not in served.models.adapters:
        error = HttpError(HTTPStatus.NOT_FOUND, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        raise RequestRefusedError(error)
    del served.models.adapters[name]
    return Reply(f"Success: LoRA adapter '{name}' removed successfully.".encode(), TEXT)


def _refused(message: str) -> RequestRefusedError:
    return RequestRefusedError(HttpError(HTTPStatus.BAD_REQUEST, "InvalidUserInput", message))
