"""The API description of a gateway: its operations, and whether an answer is one that it describes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import httpx
from jsonschema_rs import Draft202012Validator

BODILESS = {400, 414, 431, 503}
"""Statuses that the connection may answer without a body."""


@dataclass(frozen=True)
class Described:
    """One operation of the description."""

    name: str
    method: str
    path: str
    parameters: tuple[str, ...]
    """Names of its query parameters."""
    has_body: bool
    statuses: frozenset[int]

    def url(self, ids: Mapping[str, str]) -> str:
        """Its path, with these ids."""
        return self.path.format_map({name: quote(value, safe="") for name, value in ids.items()})


class Description:
    """The description, and the statuses that answers have had."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._operations = {operation.name: operation for operation in self._described()}
        self._validator = cache(self._make_validator)
        self.seen: set[tuple[str, int]] = set()

    def __iter__(self) -> Iterator[Described]:
        """The operations. The History API is there once, without the prefix of GWE 8.1."""
        return iter(self._operations.values())

    def __getitem__(self, name: str) -> Described:
        return self._operations[name]

    def unseen(self) -> set[tuple[str, int]]:
        """The operations and statuses that are described and that no answer has had."""
        return {(one.name, status) for one in self for status in one.statuses} - self.seen

    def check(self, name: str, answer: httpx.Response) -> httpx.Response:
        """Check status, media type and body of an answer, and return it. Raises AssertionError."""
        assert answer.status_code in self._operations[name].statuses, (name, answer.status_code, answer.text[:500])
        self.seen.add((name, answer.status_code))
        contents = self._response(name, answer.status_code).get("content", {})
        if not contents or (answer.status_code in BODILESS and not answer.content):
            assert not answer.content, (name, answer.status_code)
            return answer
        media_type = answer.headers["content-type"]
        assert media_type in contents, (name, answer.status_code, media_type)
        if schema := contents[media_type].get("schema"):
            for text in _documents(media_type, answer.text):
                self.validate(schema, text, name)
        return answer

    def validate(self, schema: dict[str, Any], value: Any, place: str) -> None:
        """Check a JSON value. Raises AssertionError with the first fault."""
        for error in self._validator(json.dumps(schema)).iter_errors(value):
            raise AssertionError(f"{place}: {error.message} at {error.instance_path}")

    def component(self, name: str) -> dict[str, Any]:
        """A named schema."""
        schema: dict[str, Any] = self._document["components"]["schemas"][name]
        return schema

    def _described(self) -> Iterator[Described]:
        for path, methods in self._document["paths"].items():
            for method, operation in methods.items():
                if not path.startswith("/backend/"):
                    parameters = operation.get("parameters", [])
                    yield Described(
                        operation["operationId"],
                        method.upper(),
                        path,
                        tuple(one["name"] for one in parameters if one["in"] == "query"),
                        "requestBody" in operation,
                        frozenset(map(int, operation["responses"])),
                    )

    def _response(self, name: str, status: int) -> dict[str, Any]:
        operation = self._operations[name]
        response: dict[str, Any] = self._document["paths"][operation.path][operation.method.lower()]["responses"][
            str(status)
        ]
        if reference := response.get("$ref"):
            response = self._document["components"]["responses"][reference.rpartition("/")[2]]
        return response

    def _make_validator(self, schema: str) -> Draft202012Validator:
        whole = json.loads(schema) | {"components": self._document["components"]}
        return Draft202012Validator(whole, validate_formats=True)


def _documents(media_type: str, text: str) -> list[Any]:
    """The JSON values in a body."""
    if "ndjson" in media_type:
        return [json.loads(line) for line in text.splitlines()]
    return [json.loads(text) if "json" in media_type else text]
