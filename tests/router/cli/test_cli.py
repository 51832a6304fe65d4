"""The command line where nothing needs to be started: wrong calls end with one clear line, and no traceback."""

import pytest

from dualmap.router.cli.main import COMMANDS, main
from dualmap.router.cli.status import format_status


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"dualmap {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up"], "no instances: name a model, one or more URLs, or simulate some"),
        (["up", "--simulate", "-1"], "simulate.count: Input should be greater than or equal to 0, not -1"),
        (["up", "--simulate", "1", "--policy", "best"], "policy must be one of"),
        (["up", "--simulate", "1", "--slo", "0"], "ttft_slo_s must be greater than 0"),
        (["up", "--simulate", "1", "--tpot", "-1"], "tpot_slo_s must be at least 0, not -1.0"),
        (["up", "--simulate", "1", "--port", "99999"], "gateway.port"),
        (["up", "--instance", "127.0.0.1:8000"], "http://HOST:PORT"),
        (["up", "missing.yaml"], "missing.yaml"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_starts_nothing(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "starting" not in printed.out


def test_status_without_a_gateway_says_so(capsys):
    assert main(["status", "--admin", "http://127.0.0.1:9"]) == 1
    assert "no gateway answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_status_shows_load_only_of_instances_that_serve():
    member = {"instance_id": "a", "state": "ready", "address": "127.0.0.1:1", "models": ["m"]}
    load = {"running": 2, "waiting": 3, "prefill_tokens": 1000, "waiting_tokens": 3000, "kv_tokens": 5000}
    signals = {"metrics": {"age_s": 0.42, "stale": True}, "kv_events": {"age_s": None, "exact": True, "error": ""}}
    status = {
        "gateway_id": "g",
        "policy": "dualmap",
        "epoch": 7,
        "uptime_s": 12.3,
        "in_flight": 5,
        "client_connections": 4,
        "journal": "/runs/j.jsonl: 5 bytes",
        "pools": [""],
        "models_served_twice": [],
        "gateways": [],
        "members": [
            {**member, **load, "seconds_per_token": 0.0005, "tpot_s": 0.0314, "signals": signals},
            {**member, "instance_id": "b", "state": "lost", "models": []},
        ],
    }
    head, journal, _, _, serving, lost = format_status(status).splitlines()
    assert "policy dualmap" in head
    assert "epoch 7" in head
    assert journal == "journal /runs/j.jsonl: 5 bytes"
    load_shown = ["a", "ready", "127.0.0.1:1", "2", "3", "2.00", "s", "31", "ms", "5000", "m"]
    assert serving.endswith("m       metrics 0.4 s (stale), kv events none yet (exact)")
    assert serving.split()[: len(load_shown)] == load_shown
    assert lost.split() == ["b", "lost", "127.0.0.1:1"]
    status |= {
        "pools": ["", "coder"],
        "models_served_twice": ["m"],
        "gateways": [{"gateway_id": "g", "admin": "h:1"}] * 2,
    }
    members = [{**status["members"][0], "pool": ""}, {**status["members"][1], "pool": "coder"}]
    _, _, twice, gateways, _, _, first, other = format_status({**status, "members": members}).splitlines()
    assert twice == "in several pools, served by the first by name: m"
    assert gateways == "gateways g (h:1), g (h:1)"
    assert first.split()[:3] == ["a", "(first)", "ready"]
    assert other.split()[:3] == ["b", "coder", "lost"]
