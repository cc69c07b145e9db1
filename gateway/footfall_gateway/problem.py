"""Turns what went wrong with a request into an answer: `{"code","message"}` for the History API, RFC 9457 elsewhere."""

from http import HTTPStatus

import msgspec
from starlette.responses import Response


class Problem(Exception):  # noqa: N818 - a problem is what the answer's media type calls it
    """A request that is answered with an error. `message` goes to the client and never quotes personal data."""

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


class ProblemDetails(msgspec.Struct):
    """The body of an error: application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class HistoryError(msgspec.Struct):
    """The body of an error of the History API."""

    code: int
    message: str


def problem_response(problem: Problem) -> Response:
    """The answer of every route but the History API's."""
    body = ProblemDetails("about:blank", _phrase(problem.status), problem.status, problem.message)
    return _response(problem, body, "application/problem+json")


def history_error_response(problem: Problem) -> Response:
    """The answer of the History API's routes."""
    return _response(problem, HistoryError(problem.status, problem.message), "application/json; charset=UTF-8")


def _response(problem: Problem, body: msgspec.Struct, media_type: str) -> Response:
    # The header as it is: Starlette would add a charset of its own spelling to a media type.
    headers = {"content-type": media_type, **problem.headers}
    return Response(msgspec.json.encode(body), problem.status, headers)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase
