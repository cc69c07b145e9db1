"""The tables of what callers meet: reasons of rejections, scopes and ports; errors.py has those of errors."""

import ast
import inspect
import re
from asyncio import Event
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

from footfall_eventlog import keys
from footfall_eventlog.keys import KeyScope
from footfall_gateway.api_v1 import ContactsApi, CountsApi, HealthApi, LiveApi, PrivacyApi, ReceiptsApi, VisitorsApi
from footfall_gateway.history_api import HistoryReads, HistoryWrites
from footfall_gateway.http import Operation

from deploy.embedded import DEFAULT_PORTS
from docs.generate.errors import error_reasons
from docs.generate.markdown import ROOT, table
from docs.generate.settings import SERVICES

_PROTO = ROOT / "protos" / "footfall" / "collector" / "v1" / "collector_service.proto"


def tables() -> dict[str, str]:
    """By section of the page, its table."""
    return {
        "reject reasons": _reject_reasons(),
        "error reasons": error_reasons(),
        "scopes": _scopes(),
        "ports": _ports(),
    }


def _reject_reasons() -> str:
    """The enum of the contract, with its comments."""
    block = _PROTO.read_text(encoding="utf-8").partition("enum RejectReason {")[2].partition("\n}")[0]
    found = re.findall(r"((?:  // .*\n)+)  REJECT_REASON_(\w+) = ([1-9]\d*);", block)
    return table(
        ["Reason", "Meaning"],
        [[f"`{name.lower()}`", " ".join(re.findall(r"// (.*)", comment))] for comment, name, _ in found],
    )


def _scopes() -> str:
    """Every scope, with the operations that need it."""
    unused = Mock()  # operations are listed, not carried out
    settings = SERVICES["gateway"].model_construct()
    apis: dict[str, list[Operation[Any, Any]]] = {
        "/server/data": [
            *HistoryReads(unused, unused).operations(),
            *HistoryWrites(unused, unused, unused).operations(),
        ],
        "/api/v1": [
            *VisitorsApi(unused).operations(),
            *CountsApi(unused).operations(),
            *ContactsApi(unused, unused).operations(),
            *PrivacyApi(unused).operations(),
            *ReceiptsApi(unused).operations(),
            *HealthApi(unused, "redis://localhost").operations(),
            *LiveApi(unused, unused, settings, Event()).operations(),  # type: ignore[arg-type]
        ],
    }
    meanings = _docstrings(KeyScope.__name__)
    rows = []
    for scope in KeyScope:
        calls = [
            f"`{one.method} {prefix}{one.path}`"
            for prefix, operations in apis.items()
            for one in operations
            if one.required_scope is scope
        ]
        rows.append([f"`{scope.value}`", meanings[scope.name], "<br>".join(calls)])
    return table(["Scope", "Allows", "Operations"], rows)


def _docstrings(enum: str) -> dict[str, str]:
    """By member of an enum in the module of keys, the text below it."""
    module = ast.parse(inspect.getsource(keys))
    [body] = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == enum]
    texts = {}
    for member, text in pairwise(body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(meaning))):
                texts[name] = meaning
    return texts


def _ports() -> str:
    serves = {
        "GATEWAY_PORT": "HTTP or HTTPS: pages, beacons, API, console, health, metrics",
        "COLLECTOR_PORT": "gRPC: the collector",
        "IDENTITY_PORT": "gRPC: identity",
        "HISTORY_PORT": "gRPC: history",
        "RELAY_PORT": "gRPC: health of the relay",
        "REDIS_PORT": "Valkey, of `make run`",
        "MONGO_PORT": "the MongoDB server, of `make run`",
    }
    rows = [[f"{port}", f"`{name}`", serves[name]] for name, port in DEFAULT_PORTS.items()]
    metrics = [
        f"`{service.upper()}_METRICS_PORT`" for service, cls in SERVICES.items() if "metrics_port" in cls.model_fields
    ]
    return table(["Port", "Setting", "Serves"], [*rows, ["none", "<br>".join(metrics), "HTTP: metrics of the service"]])
