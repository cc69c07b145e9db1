"""The lists that a request includes in resources (`include_*`), read with one call for all resources."""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from footfall.history.v1 import history_service_pb2 as history

from footfall_gateway.auth import Principal
from footfall_gateway.backends import Backends
from footfall_gateway.history_api import resources
from footfall_gateway.http import Includes
from footfall_gateway.problem import Problem

_MAX_BYTES = 32 * 1024 * 1024
"""Of one response. History bounds the number of items."""


class _List(NamedTuple):
    kind: str
    render: Callable[[Any], msgspec.Struct]
    id_of: Callable[[Any], str]

    @property
    def ids_field(self) -> str:
        return f"{self.kind}_ids"


_LISTS = {
    "visits": _List("visit", resources.visit, attrgetter("visit_id")),
    "sessions": _List("session", resources.session, attrgetter("session_id")),
    "pages": _List("page", resources.page, attrgetter("page_id")),
    "events": _List("event", resources.event, attrgetter("event.event_id")),
}


class Embedder:
    """Reads the visits, sessions, pages and events that belong to resources."""

    def __init__(self, backends: Backends) -> None:
        self._stream = backends.stream
        self._stream_related = backends.history.StreamRelated

    async def embed(
        self, kind: str, parents: Mapping[str, Any], wanted: Includes, site: str, principal: Principal
    ) -> None:
        """Fill the wanted lists of resources of one kind, given by id. `site` empty: all sites.

        Several ids may be names of one resource: then its lists are those of all names, name by name.

        Raises:
            Problem: 400, they are too large for one response.

        """
        if not wanted or not parents:
            return
        for resource in parents.values():
            for name, with_detail in wanted.items():
                setattr(resource, _LISTS[name].ids_field, [])
                if with_detail:
                    setattr(resource, name, [])
        request = history.StreamRelatedRequest(
            parent_kind=_number(kind),
            parent_ids=parents,
            kinds=[_number(_LISTS[name].kind) for name in wanted],
            detailed_kinds=[_number(_LISTS[name].kind) for name, with_detail in wanted.items() if with_detail],
            scope=history.Scope(site=site),
        )
        names = " and ".join(f"include_{name}" for name in wanted)
        too_much = Problem.parameter(names, "too large for one response; use a smaller page_size, or request the list")
        size = 0
        has_several_names = len(parents) > 1 and len({id(resource) for resource in parents.values()}) == 1
        seen: set[str] = set()
        try:
            async with aclosing(self._stream(self._stream_related, request, principal)) as responses:
                async for response in responses:
                    size += response.ByteSize()
                    if size > _MAX_BYTES:
                        raise too_much
                    for item in response.items:
                        if item.WhichOneof("item") == "visit" and has_several_names:  # a visit may name two of them
                            if item.visit.visit_id in seen:
                                continue
                            seen.add(item.visit.visit_id)
                        _add(parents[item.parent_id], item, wanted)
        except Problem as problem:
            if problem.status == 409:
                raise too_much from None
            raise


def _add(resource: Any, item: history.RelatedItem, wanted: Includes) -> None:
    name = f"{item.WhichOneof('item')}s"
    embedded = _LISTS[name]
    stored = getattr(item, embedded.kind)
    getattr(resource, embedded.ids_field).append(embedded.id_of(stored))
    if wanted[name]:
        getattr(resource, name).append(embedded.render(stored))


def _number(kind: str) -> history.ResourceKind.ValueType:
    return history.ResourceKind.Value(f"RESOURCE_KIND_{kind.upper()}")
