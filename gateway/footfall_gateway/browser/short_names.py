"""Renames the variables of a script to one or two letters, which no minifier on PyPI does."""

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
"""The fields that declare names, by type of node."""


def with_short_names(source: str) -> str:
    """The script with short names for the variables, functions and parameters that it declares, but not for properties.

    A name is replaced by the same short name everywhere, regardless of scopes. So a script must not declare a name that
    it also uses for a global. Raises esprima's Error when the source is not a script.
    """
    with warnings.catch_warnings(action="ignore"):  # esprima tries regular expressions with `re`, which warns
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
    """Every identifier of a variable, and whether it is also the key of a property (`{name}`)."""
    if node.type == "Identifier":
        yield node, False
    elif node.type == "MemberExpression":
        yield from _identifiers(node.object)
        if node.computed:
            yield from _identifiers(node.property)
    elif node.type == "Property" and node.shorthand:
        first, *rest = _identifiers(node.value)  # `rest`: those in the default of `{name = default}`
        yield first[0], True
        yield from rest
    elif node.type == "Property" and not node.computed:
        yield from _identifiers(node.value)
    else:
        yield from chain.from_iterable(map(_identifiers, _children(node)))
