"""Logging of a process, by structlog and by the standard library: one line of JSON each, on standard output.

Personal data is not logged. The text of an exception may quote a request (a store's error repeats the document that it
refused), so it is written at level debug only. Type and stack are always written.
"""

import logging
import os
import sys
import traceback
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import ClassVar, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being served. It is in each log line, and is sent to services that are called."""
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""The W3C trace context of the work that is being done, if it has one. It is used likewise."""
caller: ContextVar[str] = ContextVar("caller", default="")
"""Who makes the gRPC call that is being served, where callers have names. It is in each log line."""

_log = structlog.get_logger()


class _Level:
    """The lowest level that is logged. It may change while the process runs."""

    configured: ClassVar[int] = logging.INFO
    now: ClassVar[int] = logging.INFO


class _Logger(structlog.make_filtering_bound_logger(logging.DEBUG)):  # type: ignore[misc]  # a class made at run time
    """The class of all loggers. Methods below the level do nothing: they are exchanged when it changes."""


def configure(service: str, level: str) -> None:
    """Send all logging of this process to standard output. Call once, before the first channel or server is made."""
    output = _Output()
    _Level.configured = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        partial(_add_request_and_service, service),
        _add_stack,
    ]
    rendered = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, rendered],
        wrapper_class=_Logger,
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", output)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, rendered],
        )
    )
    logging.getLogger().handlers[:] = [handler]
    _set_level(_Level.configured)


def toggle_debug() -> None:
    """Log at level debug from now on; when called again, at the configured level, or info if that is debug."""
    is_debug = _Level.now <= logging.DEBUG
    _set_level(max(_Level.configured, logging.INFO) if is_debug else logging.DEBUG)
    _log.warning("the log level has changed", log_level=logging.getLevelName(_Level.now).lower())


def _set_level(level: int) -> None:
    _Level.now = level
    for name, method in vars(structlog.make_filtering_bound_logger(level)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    # Messages of libraries at level info are about their internals.
    logging.getLogger().setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))


class _Output:
    """Standard output. Lines that cannot be written, as to a closed pipe, are lost, and the process goes on.

    There is no buffer: Python would write it again at the end of the process, which would fail.
    """

    def __init__(self) -> None:
        try:
            self._descriptor = sys.stdout.fileno()
        except (AttributeError, OSError):  # there is no standard output, or it is not a file
            self._descriptor = os.open(os.devnull, os.O_WRONLY)

    def write(self, text: str) -> None:
        left = text.encode()
        with suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def flush(self) -> None:
        """Nothing is buffered."""


def _add_request_and_service(service: str, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    line["service"] = service
    if current := request_id.get():
        line["request_id"] = current
    if name := caller.get():
        line["caller"] = name
    if trace := traceparent.get():
        line["trace_id"] = trace[3:35]
    return line


def _add_stack(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Replace `exc_info` by the type and the stack of the exception, with its text only when debugging."""
    info = line.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        line["exception"] = type(error).__qualname__
        line["stack"] = "".join(traceback.format_exception(error) if _Level.now <= logging.DEBUG else _frames(error))
    return line


def _frames(error: BaseException) -> list[str]:
    """The frames of an exception and of its causes, the first cause first, without their texts."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [
        *(_frames(cause) if cause else ()),
        *traceback.format_tb(error.__traceback__),
        f"{type(error).__qualname__}\n",
    ]
