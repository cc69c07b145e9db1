"""Turns the `include_*` parameters of a request into what its answer shall hold."""

from collections.abc import Mapping, Sequence

from footfall_gateway.problem import Problem

Includes = Mapping[str, bool]
"""What to include: `visits`, `pages`, `sessions`, `events`; True: whole objects beside their ids."""


def parse_includes(values: Mapping[str, str], allowed: Sequence[str]) -> Includes:
    """What the parameters of a request ask to include.

    Raises:
        Problem: 400, a value is no boolean, or details are asked for without the thing itself.

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
