"""The tables of all settings, from the classes that the services read them with."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from footfall_collector.settings import CollectorSettings
from footfall_gateway.settings import GatewaySettings
from footfall_history.settings import HistorySettings
from footfall_identity.settings import IdentitySettings
from footfall_relay.settings import RelaySettings
from footfall_servicekit.settings import ProcessSettings, old_variables, variable
from footfall_servicekit.values import Accepts
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.generate.markdown import table

SERVICES: dict[str, type[ProcessSettings]] = {
    "collector": CollectorSettings,
    "identity": IdentitySettings,
    "history": HistorySettings,
    "relay": RelaySettings,
    "gateway": GatewaySettings,
}

_UNITS = {
    "_EVENTS_PER_MINUTE_": "events a minute",
    "_BYTES_PER_MINUTE_": "bytes a minute",
    "_PER_MINUTE_": "a minute",
    "_BYTES_": "bytes",
    "_MS_": "ms",
    "_S_": "s",
    "_MINUTES_": "minutes",
    "_DAYS_": "days",
}
_SIZES = {"TiB": 1024**4, "GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}


class Setting(NamedTuple):
    """A row of a table. Equal rows of several services are one setting, whose variables differ in the prefix."""

    name: str  # of the variable, with * for the prefix of the service
    default: str
    accepts: str
    meaning: str


def settings_of(cls: type[ProcessSettings]) -> Iterator[Setting]:
    """Every setting of a service."""
    prefix, meanings = str(cls.model_config.get("env_prefix", "")), meanings_of(cls)
    for field_name, field in cls.model_fields.items():
        name = variable(cls, field_name)
        generic = f"*_{name.removeprefix(prefix)}" if field.validation_alias is None else name
        yield Setting(generic, _default(name, field), _accepts(name, field), meanings[field_name])


def meanings_of(cls: type[ProcessSettings]) -> dict[str, str]:
    """The description of each setting of a service: that of its type, or the docstring below its field.

    pydantic can read such docstrings too, but would parse the source code at each start of a process.
    """
    meanings = {name: field.description or "" for name, field in cls.model_fields.items()}
    for each in reversed(cls.__mro__[: cls.__mro__.index(ProcessSettings) + 1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, docstring in pairwise(body):
            match field, docstring:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                    meanings[name] = text
    return {name: " ".join(text.split()) for name, text in meanings.items()}


def tables() -> dict[str, str]:
    """By section of the page, its table: settings of several services, then those of one each.

    Raises:
        ValueError: services disagree about a shared setting.

    """
    readers: dict[Setting, list[str]] = {}
    for service, cls in SERVICES.items():
        for setting in settings_of(cls):
            readers.setdefault(setting, []).append(service)
    shared = [setting.name for setting in readers if not setting.name.startswith("*")]
    if differing := {name for name in shared if shared.count(name) > 1}:
        raise ValueError(f"services differ in default, limits or meaning of {', '.join(sorted(differing))}")
    sections: dict[str, list[list[str]]] = {name: [] for name in ("shared", *SERVICES)}
    for setting, services in readers.items():
        names = dict.fromkeys(setting.name.replace("*", service.upper()) for service in services)
        row = ["<br>".join(f"`{name}`" for name in names), *setting[1:]]
        if len(services) > 1:
            sections["shared"].append([*row, "all" if len(services) == len(SERVICES) else ", ".join(services)])
        else:
            sections[services[0]].append(row)
    head = ["Variable", "Default", "Unit and accepted values", "Meaning"]
    return {name: table([*head, "Read by"] if name == "shared" else head, rows) for name, rows in sections.items()}


def renamed_variables() -> dict[str, str]:
    """By old name, the new name of each variable that has one."""
    return {old: variable(cls, field) for cls in SERVICES.values() for field, old in sorted(old_variables(cls).items())}


def old_names() -> str:
    """The table of variables that have new names."""
    return table(
        ["Old name", "New name"], [[f"`{old}`", f"`{new}`"] for old, new in sorted(renamed_variables().items())]
    )


def _default(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    match default:
        case None | "" | SecretStr():
            return "unset"
        case bool():
            return f"`{default}`".lower()
        case int() if "BYTES" in name and default >= 1024:
            return f"`{default}` ({_size(default)})"
        case Enum():
            return f"`{default.value}`"
        case _:
            return f"`{default}`"


def _accepts(name: str, field: FieldInfo) -> str:
    """The type, limits and unit of a setting."""
    for told in reversed(field.metadata):
        if isinstance(told, Accepts):
            return told.text
    types = [kind for kind in get_args(field.annotation) or [field.annotation] if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in types)
    match types[0]:
        case kind if kind is bool:
            return "`true` or `false`"
        case kind if kind in (int, float):
            return _range(name, field, is_whole=kind is int)
        case kind if kind is Path or get_origin(kind) is not None:
            return "path of a file"
        case _:
            return "text"


def _range(name: str, field: FieldInfo, *, is_whole: bool) -> str:
    limits: dict[str, Any] = {
        side: getattr(each, side) for each in field.metadata for side in ("ge", "gt", "le") if hasattr(each, side)
    }
    unit = next((unit for part, unit in _UNITS.items() if part in f"{name}_"), "")
    show = _size if "bytes" in unit else "{:,}".format
    least = f"above {show(limits['gt'])}, up to" if "gt" in limits else f"{show(limits['ge'])} to"
    found = f"{least} {show(limits['le'])}{', in' if 'bytes' in unit else ''} {unit}".rstrip()
    return found if is_whole else f"{found}, fractions too"


def _size(number: int) -> str:
    """A number of bytes in the largest unit that it is a multiple of."""
    return next(
        (f"{number // size} {unit}" for unit, size in _SIZES.items() if number and number % size == 0), str(number)
    )
