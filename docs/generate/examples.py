"""Excerpts of docs/examples/ for the pages that explain them."""

import re

from docs.generate.markdown import ROOT

_EXAMPLES = ROOT / "docs" / "examples"
_PYTHON = "contact_center.py"
_NODE = "node/contact_center.js"
_IN_PYTHON = ("open_channel", "pop", "chat", "record", "watch")
_IN_NODE = ("open", "pop", "chat", "record", "watch")


def excerpts() -> dict[str, str]:
    """By name, a block of code."""
    return {
        "service config": _block("json", re.sub(r",(?=\n *[\]}])", "", _python(r"SERVICE_CONFIG = (.*?^\}\n)"))),
        **{f"{name} in Python": _block("python", _python(rf"(def {name}\(.*?)(?=\n\n\S)")) for name in _IN_PYTHON},
        **{f"{name} in Node": _block("js", _node(rf"((?:async )?function {name}\(.*?^\}}\n)")) for name in _IN_NODE},
    }


def _python(pattern: str) -> str:
    return _found(_PYTHON, pattern)


def _node(pattern: str) -> str:
    return _found(_NODE, pattern)


def _found(file: str, pattern: str) -> str:
    found = re.search(f"^{pattern}", (_EXAMPLES / file).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"docs/examples/{file} has nothing that matches {pattern}")
    return found[1]


def _block(language: str, code: str) -> str:
    return f"```{language}\n{code.strip()}\n```"
