"""The OpenAPI 3.1 description, generated from the table of operations that also makes the routes."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, get_args, get_origin

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

A key needs the scope in the `x-scope` of an operation, if it has one. The user `API_USER` has all scopes. What a key
may not see is answered 404, like what does not exist.

Values that mean "none": `null`, or a value that the description of the property names, such as `endDate` 0. Every
property is in every answer unless it is not in `required`. Later versions may add properties.

A method that a path does not have is answered 405, and `Allow` lists those that it has.

Every answer of `/server/data` and `/api/v1` has an `X-Request-Id`: that of the request, if it has one. Malformed
requests, too long URLs and header fields, and too many connections (400, 414, 431, 503) are answered without a body."""


class Unrouted(NamedTuple):
    """Paths without operations, described by hand: the types they use, and a function from schemas to paths."""

    bodies: Sequence[Any]
    answers: Sequence[Any]
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
                "responses": _CONNECTION_RESPONSES,
                "securitySchemes": {
                    "basic": {"type": "http", "scheme": "basic"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                },
            },
        }
    )


class _Schemas:
    """The schemas of all types used, by type. Bodies and answers have no type in common."""

    def __init__(self, bodies: Iterable[Any], answers: Iterable[Any]) -> None:
        answered = list(answers)
        unique = list({repr(found): found for found in (*bodies, *answered)}.values())
        schemas, self.definitions = msgspec.json.schema_components(unique, ref_template=_REF)
        self._by_name = {repr(found): schema for found, schema in zip(unique, schemas, strict=True)}
        for struct in set(_structs(answered)):
            _describe_answer(self.definitions[struct.__name__], struct)
        for definition in self.definitions.values():
            properties, required = definition["properties"], definition["required"]
            definition["properties"] = dict(sorted(properties.items(), key=lambda item: item[0] not in required))
            for schema in properties.values():
                _move_description_up(schema)

    def of(self, found: Any) -> Schema:
        """The schema of a type, usually a reference."""
        return self._by_name[repr(found)]


def _move_description_up(schema: Schema) -> None:
    """Move the description of `T | None` from T to the whole, unless the whole has its own."""
    for branch in schema.get("anyOf", ()):
        if "description" in branch:
            text = branch.pop("description")
            schema.setdefault("description", text)


def _structs(types: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """The structs in these types, and in their fields."""
    for found in types:
        if isinstance(found, type) and issubclass(found, msgspec.Struct):
            yield found
            yield from _structs(field.type for field in msgspec.structs.fields(found))
        else:
            yield from _structs(get_args(found))


def _describe_answer(definition: Schema, struct: type[msgspec.Struct]) -> None:
    """Require the keys that msgspec always encodes. A default is what the server begins with, not what is absent."""
    omits_defaults = struct.__struct_config__.omit_defaults
    definition["required"] = [
        field.encode_name
        for field in msgspec.structs.fields(struct)
        if field.required or not (omits_defaults or field.default is msgspec.UNSET)
    ]
    for schema in definition["properties"].values():
        schema.pop("default", None)


@cache
def _schemas(bodies: tuple[Any, ...], answers: tuple[Any, ...]) -> _Schemas:
    return _Schemas(bodies, answers)


def _components(apis: Iterable[Api], unrouted: Unrouted) -> _Schemas:
    bodies, answers = [*unrouted.bodies], [*unrouted.answers]
    for api in apis:
        answers.append(api.style.body)
        for operation in api.operations:
            bodies += [operation.body] if operation.body else []
            answers += [found for found in (operation.response_type, *operation.also.values()) if found]
    return _schemas(tuple(bodies), tuple(answers))


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
    if operation.required_scope and not operation.allows_any_scope:
        described["x-scope"] = operation.required_scope.value
    if operation.body is not None:
        body = {"schema": schemas.of(operation.body)}
        if operation.example is not None:
            body["example"] = operation.example
        content = dict.fromkeys(operation.body_types, body)
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameters(path: str) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1},
            **({"example": _PATH_EXAMPLES[name]} if name in _PATH_EXAMPLES else {}),
        }
        for name in _PATH_PARAMETER.findall(path)
    ]


def _query_parameters(operation: Operation[Any, Any]) -> list[Schema]:
    query: type[msgspec.Struct] = operation.query
    definition = _definition(query)
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


@cache
def _definition(struct: type[msgspec.Struct]) -> Schema:
    definition: Schema = msgspec.json.schema_components([struct])[1][struct.__name__]
    return definition


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
    for name, text in operation.answer_headers.items():
        responses["200"].setdefault("headers", {}).update(_header(name, text)["headers"])
    error = schemas.of(api.style.body)
    errors = {**dict(_usual_errors(operation)), **operation.errors}
    for status in sorted(errors.keys() - operation.never):
        responses[str(status)] = with_body(api.style.media_type, error, errors[status]) | ERROR_HEADERS.get(status, {})
    for status, body in operation.also.items():
        responses[str(status)] = with_body(operation.media_type, schemas.of(body), "The answer.")
    return responses | CONNECTION_ERRORS


def _usual_errors(operation: Operation[Any, Any]) -> Iterator[tuple[int, str]]:
    """The errors that follow from an operation's definition. It may have more, and be without some."""
    yield 400, "A parameter or the body is wrong; the message names it and its rule."
    yield 500, "Footfall has a fault; its logs name the `X-Request-Id`."
    yield 503, "Too many connections are open. Try again."
    if "{" in operation.path:
        yield 404, "The resource does not exist, or the key may not see it."
    if operation.body is not None:
        yield 408, "The body took too long to arrive."
        yield 413, "The body has more than 1 MiB."
        yield 415, f"The body is not {' or '.join(operation.body_types)}, or is compressed."
    if operation.required_scope:
        yield 401, "Credentials are missing or wrong."
        yield 403, "The key does not have the scope or the site; or a page of another origin asks for a change."
        yield 429, "Too many sign-ins from this address have failed."
        yield 501, "A service is of an earlier version, which does not have this operation."
        yield 503, "A service is not available, or too much is waiting. Try again."
        yield 504, "A service did not answer in time."


def with_body(media_type: str, schema: Schema, description: str) -> Schema:
    """The description of a response with a body."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _header(name: str, description: str) -> Schema:
    return {"headers": {name: {"description": description, "schema": {"type": "string"}}}}


_PATH_PARAMETERS = {
    "contactId": "The contact center's id of the contact, 1 to 256 characters, percent-encoded.",
    "interactionId": "The contact center's id of the interaction, 1 to 128 characters, percent-encoded.",
    "eventId": "The event, a UUID.",
    "identityId": "The identity, 1 to 512 characters, percent-encoded.",
    "pageId": "The page entry, a UUID: `pageId`, not `browserPageID`.",
    "sessionId": "The session, a UUID.",
    "valueId": "The name of the value, as the list says it.",
    "visitId": "The visit, a UUID.",
}
# Ids that clients choose. Those that Footfall or its script makes have no example: an answer has one to copy.
_PATH_EXAMPLES = {"contactId": "C-1001", "interactionId": "call-4711", "identityId": "dana@example.com"}
_CONNECTION_RESPONSES = {
    "UrlTooLong": {"description": "Path and query have more than 16 KiB. Without a body."},
    "HeadersTooLong": {"description": "There are more than 100 header fields, or 64 KiB of them. Without a body."},
}
CONNECTION_ERRORS: Final[dict[str, Schema]] = {
    "414": {"$ref": "#/components/responses/UrlTooLong"},
    "431": {"$ref": "#/components/responses/HeadersTooLong"},
}
"""The responses of the connection to a request for any path."""
_NEXT_PAGE = _header("Paging-Next", "Where the next page begins, for `page_start`; absent on the last one.")["headers"]
ERROR_HEADERS: Mapping[int, Schema] = {
    401: _header("WWW-Authenticate", "How to sign in."),
    429: _header("Retry-After", "Seconds to wait."),
    503: _header("Retry-After", "Seconds to wait."),
}
"""The headers of responses, by status."""
