"""Mutants of a module: small faults, one at a time, each in one function.

A mutant is compiled from the module's whole syntax tree, so that its lines stay where they are, and replaces the code
of its function alone.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

COMPARES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """at: the line of the fault. code: of the function it stands in, with the fault."""

    path: Path
    at: int
    what: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.path}:{self.at} {self.code.co_qualname}: {self.what}"


def mutants_of(path: Path) -> Iterator[Mutant]:
    source = path.read_text()
    sites = sum(1 for _ in _sites(ast.parse(source)))
    for number in range(sites):
        tree = ast.parse(source)
        function, node, change = next(site for index, site in enumerate(_sites(tree)) if index == number)
        what = change.describe(node)
        change.apply(node)
        module = compile(ast.fix_missing_locations(tree), str(path), "exec")
        code = next(found for found in codes_of(module) if found.co_firstlineno == _first_line(function))
        yield Mutant(path, node.lineno, what, code)


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """The code of each function and method of a module; those inside them belong to them."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x2:  # CO_NEWLOCALS: a function's, not a class's
                yield constant
            else:
                yield from codes_of(constant)


def _first_line(function: Function) -> int:
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


@dataclass(frozen=True)
class Change:
    """Gives a field of a node another value. removed: the statement that goes with that."""

    field: str
    value: object
    removed: ast.stmt | None = None

    def describe(self, node: ast.AST) -> str:
        """Before it is applied."""
        if self.removed is not None:
            return f"without {ast.unparse(self.removed)}"
        before = ast.unparse(node).partition("\n")[0]
        old = getattr(node, self.field)
        self.apply(node)
        after = ast.unparse(ast.fix_missing_locations(node)).partition("\n")[0]
        setattr(node, self.field, old)
        return f"{before}  ->  {after}"

    def apply(self, node: ast.AST) -> None:
        setattr(node, self.field, self.value)


def _sites(tree: ast.Module) -> Iterator[tuple[Function, ast.AST, Change]]:
    """Each fault that there can be: its function, its node, and what it does to the node."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop(0)
        if isinstance(node, Function):
            for inner in (node, *(found for statement in node.body for found in _within(statement))):
                for change in _changes(inner):
                    yield node, inner, change
        elif isinstance(node, ast.Module | ast.ClassDef):
            pending += node.body


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but for annotations, which do nothing, and assertions, which are tests themselves."""
    if isinstance(node, ast.Assert):
        return
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in ("annotation", "returns"):
                yield from _within(child)


def _changes(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare(ops=[only]) if type(only) in COMPARES:
            yield Change("ops", [COMPARES[type(only)]()])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield Change("op", OPERATORS[type(op)]())
        case ast.BoolOp(op=op, values=values):
            yield Change("op", ast.Or() if isinstance(op, ast.And) else ast.And())
            for left_out in range(len(values)):
                yield Change("values", [value for i, value in enumerate(values) if i != left_out] * 2)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield Change("operand", ast.UnaryOp(ast.Not(), operand))
        case ast.Constant(value=bool() as value):
            yield Change("value", not value)
        case ast.Constant(value=int() | float() as value):
            yield Change("value", value + 1)
        case ast.IfExp(body=body, orelse=other):
            yield Change("body", other)
            yield Change("orelse", body)
        case ast.If() | ast.While():
            yield Change("test", ast.Constant(False))
        case ast.Call(func=ast.Name(id=name)) if name in SWAPPED_CALLS:
            yield Change("func", ast.Name(SWAPPED_CALLS[name], ast.Load()))
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        for index, statement in enumerate(block if isinstance(block, list) else ()):
            if _acts(statement):
                rest = [*block[:index], ast.Pass(), *block[index + 1 :]]
                yield Change(field, rest, removed=statement)


def _acts(statement: ast.stmt) -> bool:
    """Whether it changes something: a name that is only bound would be missed at once."""
    match statement:
        case ast.Expr(value=ast.Constant()):
            return False
        case ast.Assign(targets=targets):
            return not any(isinstance(target, ast.Name) for target in targets)
        case _:
            return isinstance(statement, ast.Expr | ast.AugAssign | ast.Delete)
