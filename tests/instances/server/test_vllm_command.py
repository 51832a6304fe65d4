"""How a vLLM server is started, and what is said when it cannot be found."""

import json

import pytest

from dualmap.instances.server.vllm_command import NoVllmError, find_vllm, number_of, serve_command, serve_env


def command(*engine_args: str, tensor_parallel_size: int = 1, kv_events: bool = False) -> list[str]:
    options = {"tensor_parallel_size": tensor_parallel_size, "kv_events": kv_events}
    return list(serve_command("/bin/vllm", "m", engine_args, **options))


def test_the_users_arguments_come_last_so_that_they_win():
    assert command("--seed", "1") == [
        *("/bin/vllm", "serve", "m", "--host", "{host}", "--port", "{port}"),
        *("--enable-prompt-tokens-details", "--seed", "1"),
    ]


@pytest.mark.parametrize("said", ["--enable-prompt-tokens-details", "--no-enable-prompt-tokens-details"])
def test_what_the_user_says_is_not_said_again(said: str):
    assert [argument for argument in command(said) if "prompt-tokens-details" in argument] == [said]


def test_a_tensor_parallel_size_is_passed_on():
    made = command(tensor_parallel_size=4)
    assert made[made.index("--tensor-parallel-size") + 1] == "4"


def test_kv_events_get_names_of_their_own_at_each_start_which_only_this_machine_can_reach():
    made = command(kv_events=True)
    config = json.loads(made[made.index("--kv-events-config") + 1])
    assert config["enable_kv_cache_events"] is True
    names = config["endpoint"], config["replay_endpoint"]
    assert names == ("ipc://@dualmap-tcp-{unique}:1", "ipc://@dualmap-tcp-{unique}:1001")


@pytest.mark.parametrize(
    ("arguments", "number"),
    [((), None), (("--max-num-seqs", "16"), 16), (("--max-num-seqs=8",), 8), (("--max-num-seqs",), None)],
)
def test_a_number_is_that_of_the_arguments(arguments, number):
    assert number_of(arguments, "--max-num-seqs") == number


def test_replicas_on_the_cpu_share_it(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    env = serve_env(0, 2.0, {"A": "b", "OMP_NUM_THREADS": "7"})
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert (env["A"], env["OMP_NUM_THREADS"]) == ("b", "7")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert "VLLM_CPU_KVCACHE_SPACE" not in serve_env(0, 1.0, {})
    assert "OMP_NUM_THREADS" not in serve_env(1, 1.0, {})


def test_a_missing_vllm_is_said_with_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoVllmError, match=r"'no-such-vllm' was found neither beside .* nor on the PATH"):
        find_vllm("no-such-vllm")
    (tmp_path / "my-vllm").touch(mode=0o755)
    assert find_vllm("my-vllm") == str(tmp_path / "my-vllm")
