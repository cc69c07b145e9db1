"""`footfall-gateway check-dsl FILE`: what is wrong in a domain-model.xml, its selectors and expressions included."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import esprima
from cssselect2 import SelectorError
from cssselect2.parser import parse as parse_selector

from footfall_gateway.browser import Code, DslFileError, Fault, load_dsl_file

_JQUERY_PSEUDOS = {
    "animated", "button", "checkbox", "contains", "eq", "even", "file", "first", "gt", "header", "hidden", "image",
    "input", "last", "lt", "nth", "odd", "parent", "password", "radio", "reset", "selected", "submit", "text",
    "visible",
}  # fmt: skip
_CSS_PSEUDOS = {
    "active", "any-link", "autofill", "checked", "default", "defined", "disabled", "empty", "enabled", "first-child",
    "first-of-type", "focus", "focus-visible", "focus-within", "fullscreen", "has", "hover", "in-range",
    "indeterminate", "invalid", "is", "lang", "last-child", "last-of-type", "link", "modal", "not", "nth-child",
    "nth-last-child", "nth-last-of-type", "nth-of-type", "only-child", "only-of-type", "open", "optional",
    "out-of-range", "placeholder-shown", "popover-open", "read-only", "read-write", "required", "root", "scope",
    "target", "user-invalid", "user-valid", "valid", "visited", "where",
}  # fmt: skip

# What jQuery reads and CSS does not: text without quotes, an operator, names and values that begin with a digit. And
# what may hold any character: texts in quotes, and what is escaped.
_JQUERY_ONLY = re.compile(
    r"""(?P<text>:contains\((?!\s*["'])[^()]*\)) | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | !(?==)
    | (?<=[\#.=])(?P<digit>\d) | (?P<escaped>\\.)""",
    re.VERBOSE,
)

_SELECTING = {"find", "closest", "parents", "parent", "children", "siblings"}
"""Methods of jQuery whose argument is a selector, and which hardly anything else has with a text for argument."""


def run(arguments: list[str]) -> int:
    """Print what is wrong, a line each; the exit code: 1 for faults, 0 when there are none or warnings alone."""
    parser = argparse.ArgumentParser(
        prog="footfall-gateway check-dsl",
        description="Look for faults in a domain-model.xml, its selectors and expressions; exit with 1 for any.",
    )
    parser.add_argument("file", type=Path)
    path = parser.parse_args(arguments).file
    try:
        found = load_dsl_file(path)
    except DslFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    faults = [*found.faults, *(fault for code in found.codes for fault in _judged(code))]
    warnings = [Fault(line, f"warning: {reason}") for line, reason in found.warnings]
    for line, reason in sorted(faults + warnings):
        sys.stderr.write(f"{path}:{line}: {reason}\n")
    return 1 if faults else 0


def _judged(code: Code) -> Iterator[Fault]:
    reasons = selector_faults(code.text) if code.attribute == "element" else expression_faults(code.text)
    for reason in reasons:
        yield Fault(code.line, f"{code.place}: {code.attribute} {code.text!r}: {reason}")


def selector_faults(selector: str) -> Iterator[str]:
    """Why neither browsers nor jQuery understand a selector; at most one reason a name."""
    css = _JQUERY_ONLY.sub(_as_css, selector)
    if css.count("(") != css.count(")") or css.count("[") != css.count("]"):
        yield "a bracket is not closed, or not opened"
        return
    try:
        list(parse_selector(css, relative=True))
    except SelectorError as error:
        yield f"no selector: {error.args[-1]}"
        return
    for name in re.findall(r"(?<!:):([\w-]+)", css):
        if name.lower() not in _JQUERY_PSEUDOS | _CSS_PSEUDOS and not name.startswith("-"):
            yield f":{name} is known neither to CSS nor to jQuery"


def _as_css(found: re.Match[str]) -> str:
    if found["text"]:
        return ":contains(x)"
    if found["string"]:
        return "''"
    return "x" if found["digit"] or found["escaped"] else ""


def expression_faults(expression: str) -> Iterator[str]:
    """Why an expression is no JavaScript, or gives jQuery a selector that is none."""
    selectors: list[str] = []
    try:
        esprima.parseScript(expression, {}, lambda node, _: selectors.extend(_selectors(node)))
    except esprima.Error as error:
        yield f"no JavaScript: {error.message.partition(': ')[2]}, column {error.column}"
        return
    for selector in selectors:
        for reason in selector_faults(selector):
            yield f"{selector!r}: {reason}"


def _selectors(node: esprima.nodes.Node) -> Iterator[str]:
    """The selectors that a call of jQuery is given as text; text that begins with < is HTML."""
    if node.type != "CallExpression" or not node.arguments or not isinstance(node.arguments[0].value, str):
        return
    callee, text = node.callee, node.arguments[0].value
    is_jquery = callee.type == "Identifier" and callee.name in {"$", "jQuery"}
    if (is_jquery or (callee.property and callee.property.name in _SELECTING)) and not text.lstrip().startswith("<"):
        yield text
