"""The OpenAPI 3.1 description, generated from the table of operations that also makes the routes."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_origin

import msgspec

from footfall_gateway.http.routing import Api, Operation

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_SECURITY: list[dict[str, list[str]]] = [{"basic": []}, {"bearer": []}]

_ABOUT = """\
Footfall identifies the visitors of a contact center's website. `/server/data` is the History REST API of Genesys Web
Engagement, also served under `/backend/data`. `/api/v1` is Footfall's own API. Times are milliseconds since the epoch.

`/server/data`: an empty collection is 204. To read the next page, send `Paging-Next` as `page_start`.

`/api/v1`: an empty collection is 200. To read the next page, send `nextPageToken` as `page_token`.

A key needs the scope in the `x-scope` of an operation. The user `API_USER` has all scopes."""


class Unrouted(NamedTuple):
    """Paths without operations, described by hand: the types they use, and a function from schemas to paths."""

    types: Sequence[Any]
    paths: Callable[[Callable[[Any], Schema]], dict[str, Schema]]


def describe(apis: Iterable[Api], unrouted: Unrouted) -> bytes:
    """The description as JSON."""
    listed = list(apis)
    schemas = _components(listed, unrouted)
    paths = unrouted.paths(schemas.of)
    for api in listed:
        for number, prefix in enumerate(api.prefixes):
            for operation in api.operations:
                # Ids are unique: those of the second prefix, which is that of GWE 8.1, get a suffix.
                operation_id = operation.name + ("V81" if number else "")
                paths.setdefault(prefix + operation.path, {})[operation.method.lower()] = {
                    "operationId": operation_id,
                    **_operation(operation, api, schemas),
                }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Footfall", "version": "1.0.0", "description": _ABOUT},
            "paths": paths,
            "components": {
                "schemas": schemas.definitions,
                "securitySchemes": {
                    "basic": {"type": "http", "scheme": "basic"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                },
            },
        }
    )


class _Schemas:
    """The schemas of all types used, by type."""

    def __init__(self, types: Iterable[Any]) -> None:
        unique = list({repr(found): found for found in types}.values())
        schemas, self.definitions = msgspec.json.schema_components(unique, ref_template=_REF)
        self._by_name = {repr(found): schema for found, schema in zip(unique, schemas, strict=True)}

    def of(self, found: Any) -> Schema:
        """The schema of a type, usually a reference."""
        return self._by_name[repr(found)]


def _components(apis: Iterable[Api], unrouted: Unrouted) -> _Schemas:
    types = [*unrouted.types]
    for api in apis:
        types.append(api.style.body)
        for operation in api.operations:
            types += [found for found in (operation.response_type, operation.body, *operation.also.values()) if found]
    return _Schemas(types)


def _operation(operation: Operation[Any, Any], api: Api, schemas: _Schemas) -> Schema:
    summary, _, more = (inspect.getdoc(operation.handler) or "").partition("\n")
    described: Schema = {
        "tags": [api.tag],
        "summary": summary.rstrip("."),
        "parameters": [
            *_path_parameters(operation.path),
            *_query_parameters(operation),
            *_header_parameters(operation.headers),
        ],
        "responses": _responses(operation, api, schemas),
        "security": _SECURITY if operation.required_scope else [],
    }
    if more.strip():
        described["description"] = more.strip()
    if operation.required_scope:
        described["x-scope"] = operation.required_scope.value
    if operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.body)}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameters(path: str) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": "Percent-encoded; may contain any character." if name == "identityId" else "",
            "schema": {"type": "string", "minLength": 1},
        }
        for name in _PATH_PARAMETER.findall(path)
    ]


def _query_parameters(operation: Operation[Any, Any]) -> list[Schema]:
    definition = msgspec.json.schema_components([operation.query])[1][operation.query.__name__]
    required = definition["required"]
    parameters = [_query_parameter(name, schema, required) for name, schema in definition["properties"].items()]
    for name in operation.includes:
        for parameter, text in (
            (f"include_{name}", f"Include the ids of the {name}."),
            (f"include_{name}_detail", f"Include the {name} too, not only their ids. Needs include_{name}."),
        ):
            schema = {"type": "boolean", "default": False}
            parameters.append({"name": parameter, "in": "query", "description": text, "schema": schema})
    return parameters


def _header_parameters(headers: Mapping[str, str]) -> list[Schema]:
    return [
        {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}
        for name, description in headers.items()
    ]


def _query_parameter(name: str, schema: Schema, required: Iterable[str]) -> Schema:
    given = dict(schema)
    description = given.pop("description", "")
    if given.get("default") == "":
        del given["default"]  # the same as not given
    return {"name": name, "in": "query", "description": description, "required": name in required, "schema": given}


def _responses(operation: Operation[Any, Any], api: Api, schemas: _Schemas) -> Schema:
    responses: Schema = {}
    if operation.response_type is None:
        responses["204"] = {"description": "Done."}
    else:
        responses["200"] = with_body(operation.media_type, schemas.of(operation.response_type), "The answer.")
    if get_origin(operation.response_type) is list:
        responses["200"]["headers"] = _NEXT_PAGE
        responses["204"] = {"description": "There is nothing in this collection."}
    error = schemas.of(api.style.body)
    for status, description in _errors(operation):
        responses[str(status)] = with_body(api.style.media_type, error, description) | ERROR_HEADERS.get(status, {})
    for status, body in operation.also.items():
        responses[str(status)] = with_body(operation.media_type, schemas.of(body), "The answer.")
    responses["default"] = with_body(api.style.media_type, error, "Any other error.")
    return responses


def _errors(operation: Operation[Any, Any]) -> Iterator[tuple[int, str]]:
    yield 400, "A parameter or the body is wrong; the message names it and its rule."
    if operation.required_scope:
        yield 401, "Credentials are missing or wrong."
        yield 403, "These credentials do not allow the operation."
        yield 429, "Too many sign-ins from this address have failed."
    if "{" in operation.path:
        yield 404, "The resource does not exist."
    if operation.body is not None:
        yield 408, "The body took too long to arrive."
        yield 413, "The body is too large."
        yield 415, "The body is not application/json, or is compressed."
    yield 503, "A service is not available. Try again."
    yield 504, "A service did not answer in time."


def with_body(media_type: str, schema: Schema, description: str) -> Schema:
    """The description of a response with a body."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _header(name: str, description: str) -> Schema:
    return {"headers": {name: {"description": description, "schema": {"type": "string"}}}}


_NEXT_PAGE = _header("Paging-Next", "Where the next page begins, for `page_start`; absent on the last one.")["headers"]
ERROR_HEADERS: Mapping[int, Schema] = {
    401: _header("WWW-Authenticate", "How to sign in."),
    429: _header("Retry-After", "Seconds to wait."),
    503: _header("Retry-After", "Seconds to wait."),
}
"""The headers of responses, by status."""
