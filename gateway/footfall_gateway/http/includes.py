"""The `include_*` parameters of a request."""

from collections.abc import Mapping, Sequence

from footfall_gateway.problem import Problem

Includes = Mapping[str, bool]
"""Lists to include: `visits`, `pages`, `sessions`, `events`. True: whole objects beside their ids."""


def parse_includes(values: Mapping[str, str], allowed: Sequence[str]) -> Includes:
    """The lists that the parameters of a request include.

    Raises:
        Problem: 400, a value is not a boolean, or `include_*_detail` is given without `include_*`.

    """
    wanted = {}
    for name in allowed:
        is_wanted = _flag(values, f"include_{name}")
        with_detail = _flag(values, f"include_{name}_detail")
        if with_detail and not is_wanted:
            raise Problem.parameter(f"include_{name}_detail", f"only together with include_{name}")
        if is_wanted:
            wanted[name] = with_detail
    return wanted


def _flag(values: Mapping[str, str], name: str) -> bool:
    value = values.get(name, "false").lower()
    if value not in {"true", "false"}:
        raise Problem.parameter(name, "must be true or false")
    return value == "true"
