"""Excerpts of docs/examples/ and of the client for the pages that explain them."""

import re

from docs.generate.markdown import ROOT

_PYTHON = "docs/examples/contact_center.py"
_NODE = "docs/examples/node/contact_center.js"
_LIVE = "docs/examples/live_visitors.py"
_CONNECTION = "client/footfall_client/connection.py"
_IN_PYTHON = ("connect", "pop", "chat", "record", "watch")
_IN_NODE = ("open", "pop", "chat", "record", "watch")


def excerpts() -> dict[str, str]:
    """By name, a block of code."""
    config = _found(_CONNECTION, r"SERVICE_CONFIG: Final = (.*?^\}\n)")
    return {
        "service config": _block("json", re.sub(r",(?=\n *[\]}])", "", config)),
        **{f"{name} in Python": _block("python", _python(rf"(def {name}\(.*?)(?=\n\n\S)")) for name in _IN_PYTHON},
        "live visitors in Python": _block("python", _found(_LIVE, r"\"\"\".*?\n\n(.*)")),
        **{f"{name} in Node": _block("js", _node(rf"((?:async )?function {name}\(.*?^\}}\n)")) for name in _IN_NODE},
    }


def _python(pattern: str) -> str:
    return _found(_PYTHON, pattern)


def _node(pattern: str) -> str:
    return _found(_NODE, pattern)


def _found(file: str, pattern: str) -> str:
    found = re.search(f"^{pattern}", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"{file} has nothing that matches {pattern}")
    return found[1]


def _block(language: str, code: str) -> str:
    return f"```{language}\n{code.strip()}\n```"
