"""Gives the variables of a script names of one or two letters, which no minifier on PyPI does."""

import string
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain, product
from typing import Any, Final

import esprima

_NOT_NAMES: Final = {"as", "do", "if", "in", "is", "of"}
_LETTERS: Final = string.ascii_letters
_BINDS: Final = {
    "VariableDeclarator": ["id"],
    "FunctionDeclaration": ["id", "params"],
    "FunctionExpression": ["id", "params"],
    "ArrowFunctionExpression": ["params"],
    "CatchClause": ["param"],
}
"""By type of node, where in it new names are."""


def with_short_names(source: str) -> str:
    """The script, with every variable, function and parameter that it declares renamed; properties keep their names.

    Each name becomes one other wherever it stands, so scopes need not be looked at. A script must not declare a name by
    which it uses a global elsewhere. Raises esprima's Error for what is no script.
    """
    with warnings.catch_warnings(action="ignore"):  # of `re`, by which esprima tries regular expressions
        tree = esprima.parseScript(source, {"range": True})
    declared = {name.name for node in _nodes(tree) for name in _bound(node)}
    found = [*_identifiers(tree)]
    globals_used = {name.name for name, _ in found} - declared
    counts = Counter(name.name for name, _ in found if name.name in declared)
    candidates = ("".join(letters) for length in (1, 2) for letters in product(_LETTERS, repeat=length))
    free = (name for name in candidates if name not in globals_used | _NOT_NAMES)
    short = {name: next(free) for name, _ in counts.most_common()}
    pieces, end = [], 0
    for name, is_key in sorted(found, key=lambda item: item[0].range[0]):
        if name.name in short:
            start, after = name.range
            pieces += [source[end:start], f"{name.name}:" if is_key else "", short[name.name]]
            end = after
    return "".join([*pieces, source[end:]])


def _children(node: Any) -> Iterator[Any]:
    for value in vars(node).values():
        yield from (item for item in (value if isinstance(value, list) else [value]) if hasattr(item, "type"))


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    yield from chain.from_iterable(map(_nodes, _children(node)))


def _bound(node: Any) -> Iterator[Any]:
    """The identifiers that a node declares."""
    for place in _BINDS.get(node.type, ()):
        patterns = getattr(node, place)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if pattern is not None:
                yield from _bound_by(pattern)


def _bound_by(pattern: Any) -> Iterator[Any]:
    match pattern.type:
        case "Identifier":
            yield pattern
        case "AssignmentPattern":
            yield from _bound_by(pattern.left)
        case "Property":
            yield from _bound_by(pattern.value)
        case _:
            yield from chain.from_iterable(map(_bound_by, _children(pattern)))


def _identifiers(node: Any) -> Iterator[tuple[Any, bool]]:
    """Every identifier that is a variable, and whether it is the key of a property as well (`{name}`)."""
    if node.type == "Identifier":
        yield node, False
    elif node.type == "MemberExpression":
        yield from _identifiers(node.object)
        if node.computed:
            yield from _identifiers(node.property)
    elif node.type == "Property" and node.shorthand:
        first, *rest = _identifiers(node.value)  # of `{name = 1}` the rest is in the default
        yield first[0], True
        yield from rest
    elif node.type == "Property" and not node.computed:
        yield from _identifiers(node.value)
    else:
        yield from chain.from_iterable(map(_identifiers, _children(node)))
