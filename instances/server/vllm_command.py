"""How a vLLM server is started."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dualmap.scheduler.role import Role

KV_TOPIC = "kv-events"
# Of this machine alone: vLLM binds tcp://* on all interfaces, and connects to any other address. A name that has `tcp`
# and a number in it is counted up for further data-parallel ranks.
KV_ENDPOINT, KV_REPLAY_ENDPOINT = "ipc://@dualmap-tcp-{unique}:1", "ipc://@dualmap-tcp-{unique}:1001"
# Where NIXL tells others of a server what it keeps for them: at 5600 unless said otherwise, which two servers of one
# machine cannot share. vLLM's envs.py.
TRANSFER_ENV = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "{host}", "VLLM_NIXL_SIDE_CHANNEL_PORT": "{kv_port}"}
KV_ROLES = {Role.PREFILL: "kv_producer", Role.DECODE: "kv_consumer"}
TRANSFER_FLAG = "--kv-transfer-config"
CPU_KV_GIB = "4"  # of KV cache for a replica on the CPU


class NoVllmError(Exception):
    """There is no `vllm` to start; the message says where it was looked for."""


def find_vllm(executable: str) -> str:
    """The path of the `vllm` command: as given, beside this Python, or on the PATH. Raises NoVllmError."""
    if "/" not in executable and (beside := Path(sys.executable).with_name(executable)).exists():
        return str(beside)
    found = shutil.which(executable)
    if found is None:
        raise NoVllmError(
            f"{executable!r} was found neither beside {sys.executable} nor on the PATH: install vLLM"
            " (`pip install dualmap[vllm]`), or name the command with vllm.executable or --vllm"
        )
    return str(Path(found).absolute())


def serve_command(
    executable: str, model: str, engine_args: Sequence[str], *, tensor_parallel_size: int, kv_events: bool
) -> tuple[str, ...]:
    """With placeholders as InstanceSpec has them. What the user's own arguments say is not said again."""
    command = [executable, "serve", model, "--host", "{host}", "--port", "{port}"]
    if tensor_parallel_size > 1:
        command += ["--tensor-parallel-size", str(tensor_parallel_size)]
    if not _says(engine_args, "--enable-prompt-tokens-details"):
        command.append("--enable-prompt-tokens-details")  # so that `usage` says how much was cached
    return (*command, *(kv_events_args() if kv_events else ()), *engine_args)


def kv_events_args() -> tuple[str, ...]:
    """By which a server publishes its KV events for its actor alone."""
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": KV_ENDPOINT,
        "replay_endpoint": KV_REPLAY_ENDPOINT,
        "topic": KV_TOPIC,
    }
    return ("--kv-events-config", json.dumps(config))


def transfer_args(role: Role, engine_args: Sequence[str]) -> tuple[str, ...]:
    """How a server of one role hands prompts on, or takes them; none where its own arguments say that."""
    if role is Role.BOTH or any(argument.startswith(TRANSFER_FLAG) for argument in engine_args):
        return ()
    return (TRANSFER_FLAG, json.dumps({"kv_connector": "NixlConnector", "kv_role": KV_ROLES[role]}))


def serve_env(gpus: float, cpus: float, given: dict[str, str]) -> dict[str, str]:
    """What the server finds in its environment besides ours. Without a GPU it is vLLM's CPU build: each replica would
    else take all cores and nearly all memory."""
    env = {"VLLM_NO_USAGE_STATS": "1"}
    if not gpus:
        env |= {"OMP_NUM_THREADS": str(max(1, int(cpus))), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            env["VLLM_CPU_KVCACHE_SPACE"] = CPU_KV_GIB
    return env | given


def number_of(engine_args: Sequence[str], flag: str) -> int | None:
    """What the arguments say of it; None where they do not."""
    for i, argument in enumerate(engine_args):
        name, _, value = argument.partition("=")
        if name == flag:
            value = value or (engine_args[i + 1] if i + 1 < len(engine_args) else "")
            return int(value) if value.isdigit() else None
    return None


def _says(engine_args: Sequence[str], flag: str) -> bool:
    return any(argument.partition("=")[0] in (flag, flag.replace("--", "--no-", 1)) for argument in engine_args)
