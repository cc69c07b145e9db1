"""What HTTP APIs are made of: operations, their routes and description, bodies, files, server-sent events."""

from footfall_gateway.http.bodies import MAX_BODY, MAX_DISCARDED, Bodies, ClientGoneError, Receive, must_be_plain
from footfall_gateway.http.includes import Includes
from footfall_gateway.http.openapi import ERROR_HEADERS, Schema, Unrouted, describe, with_body
from footfall_gateway.http.routing import JSON, Api, Call, Gate, NoQuery, Operation, json_answer, routes
from footfall_gateway.http.sse import ID_SEPARATOR, STREAM_HEADERS, STREAM_RETRY, Source, Stream, StreamAnswer
from footfall_gateway.http.static_files import BrowserFile, Files, asset_folder, files_below, packed

__all__ = [
    "ERROR_HEADERS", "ID_SEPARATOR", "JSON", "MAX_BODY", "MAX_DISCARDED", "STREAM_HEADERS", "STREAM_RETRY", "Api",
    "Bodies", "BrowserFile", "Call", "ClientGoneError", "Files", "Gate", "Includes", "NoQuery", "Operation",
    "Receive", "Schema", "Source", "Stream", "StreamAnswer", "Unrouted", "asset_folder", "describe", "files_below",
    "json_answer", "must_be_plain", "packed", "routes", "with_body",
]  # fmt: skip
