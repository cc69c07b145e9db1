"""Turns a MongoDB server into one that takes what it is given to write, and does not say that it will keep it.

So answers a replica set whose members do not follow in time. It runs in threads: closing a client of motor blocks the
event loop until the server has answered.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import bson

_HEADER = struct.Struct("<iiii")  # length, id, id of what is answered, kind of message
_OP_MSG = 2013
_BODY_AT = _HEADER.size + 5  # behind the flags and the kind of the first section, which is the command or the answer
_WRITES = {"insert", "update", "delete", "findAndModify", "createIndexes"}
_NOT_CONFIRMED = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out"}


class UnconfirmingMongo(ThreadingTCPServer):
    """A proxy that adds `writeConcernError` to the answers to writes while `confirms` is false."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        parts = urlsplit(behind)
        self.behind = parts.hostname, parts.port
        self.url = f"mongodb://127.0.0.1:{self.server_address[1]}"
        self.confirms = True


class _Connection(BaseRequestHandler):
    server: UnconfirmingMongo

    def handle(self) -> None:
        self._writes: set[int] = set()
        with socket.create_connection(self.server.behind) as there:
            threading.Thread(target=self._answers, args=(there,), daemon=True).start()
            for message in _messages(self.request):
                _, number, _, kind = _HEADER.unpack_from(message)
                if kind == _OP_MSG and next(iter(_body(message))) in _WRITES:
                    self._writes.add(number)
                there.sendall(message)

    def _answers(self, there: socket.socket) -> None:
        for message in _messages(there):
            is_write = _HEADER.unpack_from(message)[2] in self._writes
            with suppress(OSError):
                self.request.sendall(_unconfirmed(message) if is_write and not self.server.confirms else message)


def _messages(connection: socket.socket) -> Iterator[bytes]:
    with suppress(OSError), connection.makefile("rb") as file:
        while len(head := file.read(_HEADER.size)) == _HEADER.size:
            yield head + file.read(_HEADER.unpack(head)[0] - _HEADER.size)


def _body(message: bytes) -> dict[str, object]:
    [size] = struct.unpack_from("<i", message, _BODY_AT)
    return bson.decode(message[_BODY_AT : _BODY_AT + size])


def _unconfirmed(message: bytes) -> bytes:
    _, *rest = _HEADER.unpack_from(message)
    body = bson.encode(_body(message) | {"writeConcernError": _NOT_CONFIRMED})
    return _HEADER.pack(_BODY_AT + len(body), *rest) + message[_HEADER.size : _BODY_AT] + body


@contextmanager
def unconfirming_mongo(url: str) -> Iterator[UnconfirmingMongo]:
    """A running one before the server at `url`, which confirms writes until `confirms` is set to false."""
    with UnconfirmingMongo(url) as mongo:
        threading.Thread(target=mongo.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield mongo
        finally:
            mongo.shutdown()
