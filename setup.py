"""What pyproject.toml cannot say: which modules a wheel has as machine code, made by mypyc (docs/decisions/0027).

DUALMAP_COMPILE=0 makes a wheel of pure Python, and 1 fails where compiling fails; where it is not set, what cannot be
compiled is pure Python. An editable installation is never compiled: edits of a compiled module would not be seen.
DUALMAP_OPT_LEVEL is the compiler's (0 to 3): at 0 it takes a third of the time.
"""

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import Distribution, Extension, setup

# Of src/dualmap: what each request takes its way through. What is not here would take longer to compile than it saves,
# or gains nothing: a subclass of asyncio.Protocol is slower compiled, and msgspec finds no fields in a compiled Struct.
COMPILED = (
    "scheduler/[!_]*.py",
    "scheduler/core/[!_]*.py",
    "scheduler/instance/[!_]*.py",
    "scheduler/policies/dualmap*.py",
    "router/gateway/noted.py",
    "router/gateway/pool.py",
    "router/gateway/sent_prompts.py",
    "router/legs/bootstrap.py",
    "router/legs/connector.py",
    "router/legs/handoff.py",
    "router/legs/leg_body.py",
    "router/legs/mooncake.py",
    "router/legs/nixl.py",
    "router/observe/distribution.py",
    "router/observe/latencies.py",
    "router/observe/metrics.py",
    "router/observe/pool_timeline.py",
    "router/observe/recent_decisions.py",
    "router/requests/admission.py",
    "router/requests/answer_events.py",
    "router/requests/answer_plain.py",
    "router/requests/answer_replay.py",
    "router/requests/answer_verdict.py",
    "router/requests/answer_writer.py",
    "router/requests/asked.py",
    "router/requests/attempt_head.py",
    "router/requests/driven.py",
    "router/requests/driver.py",
    "router/requests/exchange.py",
    "router/requests/instance_connections.py",
    "router/requests/instance_work.py",
    "router/requests/intake.py",
    "router/requests/leg_runs.py",
    "router/requests/phase.py",
    "router/requests/quiet.py",
    "router/requests/running.py",
    "router/requests/service.py",
    "router/http/*_head.py",
    "router/http/answer_sink.py",
    "router/http/client_connection.py",
    "router/http/connection_phase.py",
    "router/http/head_form.py",
    "router/http/http_request.py",
    "router/http/json_text.py",
    "router/http/known_*.py",
    "router/http/lone_chunk.py",
    "router/http/request_reader.py",
    "router/http/request_target.py",
    "router/http/upstream.py",
    "router/http/upstream_pool.py",
    "router/apis/api.py",
    "router/apis/body_fields.py",
    "router/apis/chat.py",
    "router/apis/chunk_stream.py",
    "router/apis/generated_ids.py",
    "router/apis/json_body.py",
    "router/apis/media.py",
    "router/apis/model_list.py",
    "router/apis/prompt_blocks.py",
    "router/apis/prompt_text.py",
    "router/apis/read_body.py",
    "router/apis/routes.py",
    "router/apis/spelling.py",
    "router/apis/stream_event.py",
    "router/apis/stream_rules.py",
    "router/apis/token_*.py",
    "router/apis/usage.py",
    "router/tokens/token_blocks.py",
    "router/tokens/token_ratio.py",
)
PURE = (  # of these; the last two check what users write, and say what is wrong of a value of any type
    "scheduler/cells.py",
    "scheduler/config_text.py",
    "scheduler/record.py",
    "scheduler/config.py",
    "scheduler/instance_capacity.py",
)
ROOT = Path(__file__).parent
BUILD = "build/wheel"  # with build/wheel/native, the sources that mypyc has read and the C that it has written
OPTIONS = {"build": {"build_base": BUILD}}


def extensions() -> list[Extension]:
    wanted = os.environ.get("DUALMAP_COMPILE", "")
    if "bdist_wheel" not in sys.argv:
        return []
    shutil.rmtree(ROOT / BUILD, ignore_errors=True)
    if wanted == "0":
        return []
    try:
        return built_extensions()
    except (Exception, SystemExit) as error:  # mypyc leaves the process where types are wrong
        if wanted == "1":
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        print(f"dualmap: nothing could be compiled, so this wheel is pure Python: {why}", file=sys.stderr)
        return []


def built_extensions() -> list[Extension]:
    """Their files are there already: either all can be compiled, or setuptools hears of none."""
    native = ROOT / BUILD / "native"
    shutil.copytree(ROOT / "src" / "dualmap", native / "dualmap", ignore=shutil.ignore_patterns("__pycache__"))
    (native / "probe.c").write_text("#include <Python.h>\n")
    build([Extension("probe", [str(native / "probe.c")])], build_lib=str(native))  # mypyc would take a minute before it
    from mypyc.build import mypycify

    paths = sorted(path.relative_to(native) for path in compiled_files(native / "dualmap"))
    for path in paths:
        (native / path).write_text(for_mypyc((native / path).read_text()))
    os.chdir(native)  # mypy names modules by their paths from here
    try:
        found = mypycify(
            ["--config-file=", "--ignore-missing-imports", *map(str, paths)],
            group_name="dualmap",
            target_dir=str(native / "c"),
            debug_level="0",
            opt_level=os.environ.get("DUALMAP_OPT_LEVEL", "2"),
        )
    finally:
        os.chdir(ROOT)
    for extension in found:
        extension.extra_compile_args.append("-Wno-all")  # of C that nobody wrote: gcc takes a minute and a half for it
    build(found)
    return found


def build(found: list[Extension], **options: str) -> None:
    command = Distribution({"ext_modules": found, "options": OPTIONS}).get_command_obj("build_ext")
    for name, value in options.items():
        setattr(command, name, value)
    command.ensure_finalized()
    command.run()


def compiled_files(package: Path) -> Iterator[Path]:
    for pattern in COMPILED:
        yield from (path for path in package.glob(pattern) if str(path.relative_to(package)) not in PURE)


# What mypyc is given to read.


def for_mypyc(source: str) -> str:
    return with_constants(with_native_records(source))


CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+")


def with_constants(source: str) -> str:
    """The same module, in which names in capitals are final: machine code has their values without looking them up, as
    it would a hundred times a request. The import stands in the empty line behind the docstring: lines keep their
    numbers."""
    lines = source.splitlines()
    body = ast.parse(source).body
    for node in reversed(body):
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Tuple):
            continue  # mypyc finds some of them not set
        if isinstance(node, ast.AnnAssign) and node.value is not None and is_constant(node.target):
            insert(lines, node.annotation.end_lineno, node.annotation.end_col_offset, "]")
            insert(lines, node.annotation.lineno, node.annotation.col_offset, "_Final[")
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            if is_constant(target):
                insert(lines, node.lineno, target.end_col_offset, ": _Final")
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Name):  # the members of an enum
                members = [f"list({node.value.id})[{place}]" for place in range(len(target.elts))]
                named = zip(map(ast.unparse, target.elts), members, strict=True)
                lines[node.lineno - 1] = "; ".join(f"{name}: _Final = {member}" for name, member in named)
    assert not lines[body[0].end_lineno or 0], "a docstring, then an empty line"
    lines[body[0].end_lineno or 0] = "from typing import Final as _Final"
    return "\n".join(lines) + "\n"


def is_constant(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and CONSTANT.fullmatch(target.id) is not None


def insert(lines: list[str], number: int | None, column: int | None, text: str) -> None:
    """number: from 1."""
    assert number is not None
    line = lines[number - 1].encode()
    lines[number - 1] = (line[:column] + text.encode() + line[column:]).decode()


def with_native_records(source: str) -> str:
    """The same module, in which each dataclass has an __init__ of its own, as the decorator would make it at run time.

    mypyc makes machine code of it, by which a record is made in a tenth of the time; with the decorator's one, which
    stays Python, it would take longer than uncompiled. It stands where the docstring stood: lines keep their numbers.
    """
    imported = "from dualmap.scheduler.record import record\n"
    lines = source.replace(imported, "from dataclasses import dataclass as record\n").splitlines()
    ends = []
    for node in reversed(ast.parse(source).body):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called) in ("record", "dataclass", "dataclasses.dataclass"):
                ends.append(make_native(node, decorator, lines))
    if ends:
        lines += ["from dualmap.scheduler.record import complete as _complete", *ends]
    return "\n".join(lines) + "\n"


def make_native(node: ast.ClassDef, decorator: ast.expr, lines: list[str]) -> str:
    """Rewrite the dataclass in `lines`; return the line that completes it once the module is there."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    options = {key.arg: ast.unparse(key.value) for key in getattr(decorator, "keywords", ())}
    frozen = options.pop("frozen", "False")
    hashed = (frozen == "True" or ast.unparse(called) == "record") and options.get("eq") != "False"
    kept = [f"{key}={value}" for key, value in options.items() if key != "slots"]
    parameters = ["self"] + ["*"] * ("kw_only" in options)
    body: list[str] = []
    kinds: dict[str, str] = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            kinds[ast.unparse(field.target)] = ast.unparse(field.annotation)
            add_field(field, parameters, body)
        elif isinstance(field, ast.FunctionDef) and field.name == "__post_init__":
            body.append("self.__post_init__()")
    decorated = ", ".join(["init=False", *["unsafe_hash=True"] * hashed, *kept])
    first = node.body[0]
    init = " " * first.col_offset + f"def __init__({', '.join(parameters)}) -> None: {'; '.join(body) or 'pass'}"
    if isinstance(first, ast.Expr):
        lines[first.lineno - 1 : first.end_lineno] = [init, *[""] * (first.end_lineno - first.lineno)]
    else:
        lines.insert(first.lineno - 1, init)
    lines[decorator.lineno - 1] = f"@{ast.unparse(called)}({decorated})"
    return f"_complete({node.name}, {kinds!r}, frozen={frozen})"


def add_field(field: ast.AnnAssign, parameters: list[str], body: list[str]) -> None:
    name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
    value = field.value
    if kind.startswith("ClassVar"):
        return
    if kind == "KW_ONLY":
        parameters.append("*")
        return
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        given = {key.arg: key.value for key in value.keywords}
        value = given.get("default")
        if "default_factory" in given:
            made = f"{ast.unparse(given['default_factory'])}()"
            if "init" not in given:
                parameters.append(f"{name}: {kind} | None = None")
                made += f" if {name} is None else {name}"
            body.append(f"self.{name} = {made}")
            return
    parameters.append(f"{name}: {kind}" + (f" = {ast.unparse(value)}" if value is not None else ""))
    body.append(f"self.{name} = {name}")


if __name__ == "__main__":
    setup(ext_modules=extensions(), options=OPTIONS)
