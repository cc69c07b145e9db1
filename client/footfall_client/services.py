"""What a client is opened with."""

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from footfall_client.connection import Tls, Token, credentials

_STUBS = {"identity": IdentityServiceStub, "history": HistoryServiceStub, "collector": CollectorServiceStub}
_DEADLINE_S = 10.0


class Options(TypedDict, total=False):
    """Keywords of a client.

    - `identity`, `history`, `collector`: the targets of the services that are called, such as
      `dns:///identity.example:50052`.
    - `tls`: the files of connections with TLS; without it connections are not encrypted.
    - `token`: of an API key, or for a proxy in front of the services that asks for a bearer token. Needs `tls`.
    - `deadline_s`: the deadline of unary calls without a `timeout`, in seconds; 10 by default.
    """

    identity: str
    history: str
    collector: str
    tls: Tls | None
    token: Token | None
    deadline_s: float


class Services:
    """The services whose target is given, as stubs with the methods of the contract. Their errors are FootfallError."""

    def __init__(self, **options: Unpack[Options]) -> None:
        """Connect on first use.

        Raises:
            ValueError: `token` without `tls`, or a certificate without its key.
            OSError: a file of `tls` cannot be read.

        """
        self._credentials = credentials(options.get("tls"), options.get("token"))
        self._deadline_s = options.get("deadline_s", _DEADLINE_S)
        self._channels: list[Any] = []
        for name, stub in _STUBS.items():
            if target := options.get(name):
                setattr(self, name, stub(self._open(str(target))))

    def _open(self, target: str) -> Any:
        raise NotImplementedError

    if not TYPE_CHECKING:  # a type checker would take every name

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"{name}: the client was opened without this target" if name in _STUBS else name)
