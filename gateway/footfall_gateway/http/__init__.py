"""Building blocks of the HTTP APIs: operations, routes, OpenAPI, bodies, files, server-sent events."""

from footfall_gateway.http.bodies import MAX_BODY, MAX_DISCARDED, BodyReader, ClientGoneError, require_plain, unpack
from footfall_gateway.http.includes import Includes
from footfall_gateway.http.openapi import CONNECTION_ERRORS, ERROR_HEADERS, Schema, Unrouted, describe, with_body
from footfall_gateway.http.routing import Api, Call, Gate, NoQuery, Operation, json_response, routes
from footfall_gateway.http.sse import ID_SEPARATOR, STREAM_HEADERS, STREAM_RETRY, EventStreamResponse, Source, Stream
from footfall_gateway.http.static_files import BrowserFile, Files, asset_folder, browser_file, folder_files
