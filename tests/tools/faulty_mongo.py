"""A proxy before a MongoDB server that delays writes or other commands, or reports a fault in the answers to them.

It runs in threads of its own: a test that keeps the event loop busy does not delay it.
"""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import bson

_HEADER = struct.Struct("<iiii")  # length, id, id of what is answered, kind of message
_OP_MSG = 2013
_BODY_AT = _HEADER.size + 5  # behind the flags and the kind of the first section, which is the command or the answer
_WRITES = {"insert", "update", "delete", "findAndModify", "createIndexes"}
_FULL_DISK = {"code": 14031, "codeName": "OutOfDiskSpace", "errmsg": "available disk space is less than required"}

Fault = dict[str, object]
"""Fields that replace those of the answer to a command."""
UNCONFIRMED: Fault = {"writeConcernError": {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "timed out"}}
"""The write is done, and the members of the replica set do not follow in time."""
FULL_DISK: Fault = {"ok": 0.0, **_FULL_DISK}
"""The whole command is refused."""
FULL_DISK_FOR_ONE: Fault = {"n": 0, "writeErrors": [{"index": 0, **_FULL_DISK}]}
"""The first write of the command is refused."""
UNAUTHORIZED: Fault = {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized"}
"""The whole command is refused, and so is each repetition."""
BROKEN: Fault = {"ok": 0.0, "code": 1, "codeName": "InternalError", "errmsg": "internal server error"}
"""What SecantusDB answers to every command after its disk was full, until it is restarted."""
FAULTS = {
    "unconfirmed": UNCONFIRMED,
    "full disk": FULL_DISK,
    "full disk, one write": FULL_DISK_FOR_ONE,
    "broken": BROKEN,
}


class FaultyMongo(ThreadingTCPServer):
    """A proxy that changes the answers to `commands`, at first all writes, while it has a `fault`, and delays some."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        parts = urlsplit(behind)
        self.behind = parts.hostname, parts.port
        self.url = f"mongodb://127.0.0.1:{self.server_address[1]}"
        self.commands = _WRITES
        self.fault: Fault | None = None
        self.delays_s: list[float] = []
        """How long the next of the commands wait, one after the other, while other connections do not."""
        self.refusals: list[Fault] = []
        """The faults of the next of the commands, one after the other, before `fault`."""


class _Connection(BaseRequestHandler):
    server: FaultyMongo

    def handle(self) -> None:
        self._numbers: set[int] = set()
        with socket.create_connection(self.server.behind) as there:
            threading.Thread(target=self._answers, args=(there,), daemon=True).start()
            for message in _messages(self.request):
                _, number, _, kind = _HEADER.unpack_from(message)
                if kind == _OP_MSG and next(iter(_body(message))) in self.server.commands:
                    self._numbers.add(number)
                    time.sleep(self.server.delays_s.pop(0) if self.server.delays_s else 0)
                there.sendall(message)

    def _answers(self, there: socket.socket) -> None:
        for message in _messages(there):
            fault = None
            if _HEADER.unpack_from(message)[2] in self._numbers:
                fault = self.server.refusals.pop(0) if self.server.refusals else self.server.fault
            with suppress(OSError):
                self.request.sendall(_with_fault(message, fault) if fault else message)


def _messages(connection: socket.socket) -> Iterator[bytes]:
    with suppress(OSError), connection.makefile("rb") as file:
        while len(head := file.read(_HEADER.size)) == _HEADER.size:
            yield head + file.read(_HEADER.unpack(head)[0] - _HEADER.size)


def _body(message: bytes) -> dict[str, object]:
    [size] = struct.unpack_from("<i", message, _BODY_AT)
    return bson.decode(message[_BODY_AT : _BODY_AT + size])


def _with_fault(message: bytes, fault: Fault) -> bytes:
    _, *rest = _HEADER.unpack_from(message)
    body = bson.encode(_body(message) | fault)
    return _HEADER.pack(_BODY_AT + len(body), *rest) + message[_HEADER.size : _BODY_AT] + body


@contextmanager
def faulty_mongo(url: str) -> Iterator[FaultyMongo]:
    """A running one before the server at `url`, without a fault until `fault` is set."""
    with FaultyMongo(url) as mongo:
        threading.Thread(target=mongo.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield mongo
        finally:
            mongo.shutdown()
