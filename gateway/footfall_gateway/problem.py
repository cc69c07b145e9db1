"""Errors of requests, and their responses: `{"code","message"}` in the History API, RFC 9457 elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response


class Problem(Exception):  # noqa: N818 - the name in RFC 9457
    """An error response to a request. `message` is sent to the client and contains no personal data."""

    def __init__(self, status: int, message: str, *, retry_s: int | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if retry_s is not None:
            self.headers["retry-after"] = str(retry_s)

    @classmethod
    def parameter(cls, name: str, rule: str) -> "Problem":
        """400: the parameter (or body key) `name` breaks `rule`."""
        return cls(400, f"{name}: {rule}")


def format_error(error: msgspec.ValidationError, whole: str = "body") -> str:
    """An error of msgspec as `field: rule`. `whole`: the field of an error of the whole value."""
    rule, _, path = str(error).partition(" - at `$")
    rule = rule[:1].lower() + rule[1:].replace("`", "").replace(" | null", "").replace("int | float", "number")
    path = path.rstrip("`").lstrip(".")
    return f"{path or whole}: {rule}"


class ProblemDetails(msgspec.Struct):
    """An error (RFC 9457)."""

    type: Annotated[str, Meta(description="Always `about:blank`: the status says what kind of error it is.")]
    title: Annotated[str, Meta(description="The name of the status.")]
    status: Annotated[int, Meta(description="The status of the response.", ge=400, le=599)]
    detail: Annotated[str, Meta(description="What is wrong, in English. Begins with the name of a wrong field.")]


class HistoryError(msgspec.Struct):
    """An error of the History API."""

    code: Annotated[int, Meta(description="The status of the response.", ge=400, le=599)]
    message: Annotated[str, Meta(description="What is wrong, in English. Begins with the name of a wrong field.")]


@dataclass(frozen=True, slots=True)
class ErrorStyle:
    """The form of an API's error responses."""

    media_type: str
    body: type[msgspec.Struct]
    make: Callable[[Problem], msgspec.Struct]

    def response(self, problem: Problem) -> Response:
        """The response to a problem."""
        headers = {"content-type": self.media_type, "x-content-type-options": "nosniff", **problem.headers}
        return Response(msgspec.json.encode(self.make(problem)), problem.status, headers)


PROBLEM_DETAILS = ErrorStyle(
    "application/problem+json",
    ProblemDetails,
    lambda problem: ProblemDetails("about:blank", HTTPStatus(problem.status).phrase, problem.status, problem.message),
)
HISTORY_ERRORS = ErrorStyle(
    "application/json; charset=UTF-8", HistoryError, lambda problem: HistoryError(problem.status, problem.message)
)
