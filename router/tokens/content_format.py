"""What a chat template expects as a message's content: a string, or the list of OpenAI's parts.

vLLM 0.32 tells by the template's syntax tree whether it loops over contents, and turns every content, plain ones too,
into that form (vllm/renderers/hf.py, `_detect_content_format`). The same template must be judged the same here, so this
follows it case by case, its failures included: a tree it cannot follow means strings.
"""

from jinja2 import nodes

from dualmap.router.tokens.chat_messages import ContentFormat


class _UnforeseenError(Exception):
    """Something else than a plain name is assigned or looped with."""


def content_format(tree: nodes.Template) -> ContentFormat:
    try:
        return "openai" if _loops_over_contents(tree) else "string"
    except _UnforeseenError:
        return "string"


def _loops_over_contents(tree: nodes.Template) -> bool:
    messages = _aliases(tree, "messages")
    message_names = [
        _name(loop.target) for loop in tree.find_all(nodes.For) if any(_reads(loop.iter, name) for name in messages)
    ]

    def is_content(node: nodes.Node) -> bool:
        return any(_reads(node, name, "content") for name in message_names)

    macro_contents: dict[int, set[str]] = {}  # by loop: the macro's parameters to which a content is passed
    in_macros: set[int] = set()
    for macro in tree.find_all(nodes.Macro):
        parameters = [parameter.name for parameter in macro.args]
        contents: set[str] = set()
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                contents |= {name for name, value in zip(parameters, call.args, strict=False) if is_content(value)}
                contents |= {by.key for by in call.kwargs if by.key in parameters and is_content(by.value)}
        for loop in macro.find_all(nodes.For):
            in_macros.add(id(loop))
            if contents:
                macro_contents[id(loop)] = contents

    for loop in tree.find_all(nodes.For):
        name = loop.iter.name if isinstance(loop.iter, nodes.Name) else ""
        passed = name in macro_contents.get(id(loop), ())
        if is_content(loop.iter) or passed or (name == "content" and id(loop) not in in_macros):
            _name(loop.target)
            return True
    return False


def _aliases(tree: nodes.Template, name: str) -> list[str]:
    """The names under which a variable, or elements of it, are known."""
    names = [name]
    for known in names:
        for assign in tree.find_all(nodes.Assign):
            if _reads(assign.node, known) and (alias := _name(assign.target)) not in names:
                names.append(alias)
    return names


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _UnforeseenError
    return target.name


def _reads(node: nodes.Node | None, name: str, key: str = "") -> bool:
    """Whether an expression is the variable, or its key, perhaps filtered, tested or sliced."""
    if isinstance(node, nodes.Filter | nodes.Test):
        return _reads(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _reads(node.node, name, key)
    if not key:
        return _is_variable(node, name)
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == key and _is_variable(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _is_variable(node.node, name)


def _is_variable(node: nodes.Node | None, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
