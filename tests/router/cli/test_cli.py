"""The command line where nothing needs to be started: wrong calls end with one clear line, and no traceback."""

import argparse
import asyncio
import shlex
import socket
import threading
from collections.abc import Iterator
from importlib import import_module

import pytest

from dualmap.router.cli.main import COMMANDS, command_parser, main
from dualmap.router.cli.status import format_age, format_events, format_models, format_status


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"dualmap {command}" in capsys.readouterr().out


def parsers(command: str) -> Iterator[argparse.ArgumentParser]:
    """That of the command, or those of its subcommands."""
    (commands,) = command_parser([command])._subparsers._group_actions
    parser = commands.choices[command]
    yield from parser._subparsers._group_actions[0].choices.values() if parser._subparsers else [parser]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_a_group_with_its_unit_its_default_and_an_example(command):
    examples = " ".join(import_module(COMMANDS[command][0]).EXAMPLES)
    for parser in parsers(command):
        grouped = {action for group in parser._action_groups[2:] for action in group._group_actions}
        for action in parser._actions[1:]:
            option = (action.option_strings or [action.dest])[0]
            assert action in grouped, option
            assert action.help, option
            if action.option_strings:
                assert f"{option} " in f"{examples} ", option
                assert any(word in action.help for word in ("default", "required", "this or")) or action.nargs == 0, (
                    option
                )
            if action.type in (int, float):
                assert action.metavar.split(",")[0] in UNITS, option


UNITS = {"PORT", "N", "GPUS", "SECONDS", "MS", "TOKENS", "QPS", "S", "SHARE"}  # N: the help says of what, S: skew


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_a_call_that_can_be_made(command):
    for example in import_module(COMMANDS[command][0]).EXAMPLES:
        words = shlex.split(example.partition(" > ")[0], comments=True)
        assert words[:2] == ["dualmap", command]
        assert callable(command_parser([command]).parse_args(words[1:]).run)


@pytest.mark.parametrize(
    ("arguments", "usage", "said"),
    [
        (["up", "--polcy", "x"], "usage: dualmap up ", "unrecognized arguments: --polcy (did you mean --policy?)"),
        (["up", "a.yaml", "b.yaml"], "usage: dualmap up ", "unrecognized arguments: b.yaml"),
        (["trace", "synth", "--out", "x", "--zpif=1"], "usage: dualmap trace synth ", "(did you mean --zipf?)"),
        (["scale", "2", "--wait"], "usage: dualmap scale ", "--wait (did you mean --no-wait?)"),
        (["status", "--jsn"], "usage: dualmap status ", "(did you mean --json?)"),
        (["--jsn", "status"], "usage: dualmap status ", "unrecognized arguments: --jsn (did you mean --json?)"),
        (["demo", "--seconds", "0"], "usage: dualmap demo ", "must be above 0, found 0"),
        (["up", "http://u:secret@a:8000"], "usage: dualmap up ", "a server is given by --instance URL"),
        (
            ["pick", "--prefill", "http://u:secret@10.0.0.1:8000", "--decode", "http://10.0.0.2:8000"],
            "usage: dualmap pick ",
            "a picker takes no --prefill and --decode, since its proxy sends each request once",
        ),
        (["check"], "usage: dualmap check ", "one of the arguments FILE --schema is required"),
        (["stauts"], "usage: dualmap ", "invalid choice: 'stauts'"),
        ([], "usage: dualmap ", "required: COMMAND"),
    ],
)
def test_a_wrong_call_shows_the_usage_of_its_command(arguments, usage, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith(usage)
    assert said in printed
    assert "secret" not in printed


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
        (["up", "missing.yaml"], "missing.yaml cannot be read: No such file or directory"),
        (["up", "--simulate", "1", "--port", "8081"], "gateway.port and gateway.admin_port must differ"),
        (["up", "--instance", "http://u:pw@127.0.0.1:8000"], "takes no user and password"),
        (["pick", "--instance", "http://localhost:8000"], "proxies know instances by IP address"),
        (["up", "--prefill", "http://127.0.0.1:8000"], "all of them only prefill, and none answers"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_starts_nothing(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "starting" not in printed.out


@pytest.mark.parametrize("admin", ["http://127.0.0.1:9", "http://user:pw@127.0.0.1:9", "127.0.0.1", "http://[", "x y"])
@pytest.mark.parametrize(
    "command", [["status"], ["explain", "r"], ["scale", "2"], ["drain", "i"], ["restart", "--rolling"]]
)
def test_without_a_gateway_one_line_says_so(admin, command, capsys):
    assert main([*command, "--admin", admin]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no gateway answers at {admin}")


@pytest.mark.parametrize("arguments", [["2", "3"], ["both=2", "prefill=3"], ["prefill=2", "prefill=3"]])
def test_numbers_that_cannot_all_be_meant_are_one_line(arguments, capsys):
    assert main(["scale", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: one number for all instances, or one for each role")


def test_an_admin_address_without_a_scheme_is_told_what_one_looks_like(capsys):
    assert main(["status", "--admin", "127.0.0.1:8081"]) == 1
    assert capsys.readouterr().err.endswith(
        "127.0.0.1:8081: an admin address is http://HOST:PORT or https://HOST:PORT\n"
    )


async def test_the_port_of_clients_is_told_to_be_no_admin_port(fleet, capsys):
    async with fleet() as f:
        admin = f"http://127.0.0.1:{f.port}"
        assert await asyncio.to_thread(main, ["status", "--admin", admin]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{admin} may be no admin port: gateway.admin_port, 8081 by default.")


def test_a_port_that_speaks_no_http_is_one_line(capsys):
    def greet() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=greet)
        thread.start()
        assert main(["status", "--admin", f"http://127.0.0.1:{listening.getsockname()[1]}"]) == 1
        thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("SSH-2.0-x")


@pytest.mark.parametrize(
    "url", ["nonsense", "http://[", "http://a:b", "http://127.0.0.1:99999", "http://a b", "ftp://a:1"]
)
def test_a_server_to_measure_that_cannot_be_reached_is_one_line(url, capsys):
    assert main(["calibrate", "--url", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert url in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--out", "{file}/demo"],
        ["replay", "trace", "--target", "http://127.0.0.1:9", "--out", "{file}/run.jsonl"],
        ["trace", "synth", "--requests", "2", "--out", "{file}/trace"],
        ["report", "{file}", "--html", "{file}/page"],
        ["simulate", "synth:hot", "--qps", "1", "--out", "{file}/study"],
        ["replay-journal", "{file}"],
        ["up", "--simulate", "1", "--port", "0", "--admin-port", "0", "--journal", "{file}/journal"],
        ["sim-instance", "--port", "0", "--profile", "{file}/profile"],
        ["calibrate", "--url", "http://127.0.0.1:9", "--out", "{file}/profile"],
    ],
)
def test_a_file_that_cannot_be_written_or_read_is_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("{}")
    assert main([argument.format(file=file) for argument in arguments]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert ": " in line


def test_status_shows_load_only_of_instances_that_serve():
    member = {
        "instance_id": "a",
        "state": "ready",
        "condition": "",
        "reason": "",
        "for_s": 12.3,
        "address": "127.0.0.1:1",
        "models": ["m"],
    }
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
            {
                **member,
                "instance_id": "b",
                "state": "lost",
                "reason": "connection refused",
                "for_s": 300.0,
                "models": [],
            },
        ],
    }
    head, journal, _, _, serving, lost, why = format_status(status).splitlines()
    assert "policy dualmap" in head
    assert "epoch 7" in head
    assert journal == "journal /runs/j.jsonl: 5 bytes"
    load_shown = ["a", "ready", "12", "s", "127.0.0.1:1", "2", "3", "2.00", "s", "31", "ms", "5000", "m"]
    assert serving.endswith("m       metrics 0.4 s (stale), kv events none yet (exact)")
    assert serving.split()[: len(load_shown)] == load_shown
    assert lost.split() == ["b", "lost", "5", "min", "127.0.0.1:1"]
    assert why == "  connection refused"
    status |= {
        "pools": ["", "coder"],
        "models_served_twice": ["m"],
        "gateways": [{"gateway_id": "g", "admin": "h:1", "leaving": leaving} for leaving in (False, True)],
    }
    members = [{**status["members"][0], "pool": ""}, {**status["members"][1], "pool": "coder"}]
    _, _, twice, gateways, _, _, first, other, _ = format_status({**status, "members": members}).splitlines()
    assert twice == "in several pools, served by the first by name: m"
    assert gateways == "gateways g (h:1), g (leaving)"
    assert first.split()[:3] == ["a", "(first)", "ready"]
    assert other.split()[:3] == ["b", "coder", "lost"]
    members = [{**member, "role": role} for member, role in zip(members, ("prefill", "both"), strict=True)]
    *_, heads, first, other, _ = format_status({**status, "members": members}).splitlines()
    assert heads.split()[:4] == ["INSTANCE", "POOL", "ROLE", "STATE"]
    assert first.split()[:4] == ["a", "(first)", "prefill", "ready"]
    assert other.split()[:4] == ["b", "coder", "both", "lost"]
    members = [{**member, "revision": revision} for member, revision in zip(members, ("", "a1"), strict=True)]
    *_, heads, _, other, _ = format_status({**status, "members": members}).splitlines()
    assert heads.split()[:5] == ["INSTANCE", "POOL", "ROLE", "REVISION", "STATE"]
    assert other.split()[:5] == ["b", "coder", "both", "a1", "lost"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7199.0, "120 min"), (7200.0, "2 h"), (200_000.0, "2 d")],
)
def test_how_long_a_state_lasts_is_said_in_one_unit(seconds, shown):
    assert format_age(seconds) == shown


def test_of_many_models_some_are_shown():
    assert format_models(["a", "b", "c", "d"]) == "a, b, c, d"
    assert format_models([str(number) for number in range(2000)]) == "0, 1, 2, 3 and 1996 more"


def test_the_last_events_are_shown_the_newest_at_the_end_and_all_where_that_is_asked_for():
    assert format_events([], most=10) == "events  none yet"
    events = [{"at": 1.75e9 - number, "said": f"thing {number} " + "happened " * 9} for number in range(12)]
    head, *lines = format_events(events, most=2, columns=60).splitlines()
    assert head == "events  the last 2, of 12: --events shows all"
    assert [line.split("  ")[1].split()[1] for line in lines if line.startswith("06-")] == ["1", "0"]
    assert len(lines) == 4
    assert max(map(len, lines)) <= 60
    assert format_events(events, most=12).splitlines()[0] == "events  the last 12"


def test_reasons_fit_on_the_terminal():
    reason = "its server ended with exit code -9: " + "a long story " * 10
    state = {"state": "lost", "condition": "", "reason": reason, "for_s": 1.0}
    member = {"instance_id": "a", **state, "address": "h:1", "models": []}
    about = {"gateway_id": "g", "policy": "dualmap", "epoch": 7, "uptime_s": 1.0, "in_flight": 0, "pools": [""]}
    status = {**about, "client_connections": 0, "models_served_twice": [], "gateways": [], "members": [member]}
    _, *lines = format_status(status, columns=60).split("  its server")
    assert len(lines) == 1
    assert max(map(len, lines[0].splitlines())) <= 60
