"""Turns settings into the ASGI application: the beacon before any framework, everything else by Starlette's router."""

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from footfall_gateway.api_v1 import ApiV1
from footfall_gateway.auth import Authenticator
from footfall_gateway.beacon import BeaconEndpoint
from footfall_gateway.cors import Cors
from footfall_gateway.history_api import HistoryApi
from footfall_gateway.intake import Intake
from footfall_gateway.neighbours import Neighbours
from footfall_gateway.operations import routes
from footfall_gateway.probes import Probes
from footfall_gateway.problem import Problem, problem_response
from footfall_gateway.settings import GatewaySettings


def build(settings: GatewaySettings, neighbours: Neighbours, intake: Intake, probes: Probes, cors: Cors) -> ASGIApp:
    """The whole HTTP surface."""
    authenticator = Authenticator(settings)
    apis = [HistoryApi(neighbours).api(), ApiV1(neighbours).api(), probes.api()]
    table: list[BaseRoute] = [route for api in apis for route in routes(api, authenticator)]
    return _Dispatcher(
        BeaconEndpoint(intake, cors, settings.body_timeout_ms / 1000),
        Router(table, redirect_slashes=False, default=_not_found),
    )


class _Dispatcher:
    """Routes on the raw path: `%2F` in an id is no separator, and each segment is decoded by itself later."""

    def __init__(self, beacon: BeaconEndpoint, router: Router) -> None:
        self._beacon = beacon
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in BeaconEndpoint.paths:
            await self._beacon(scope, receive, send)
            return
        scope["path"] = scope["raw_path"].decode("ascii")
        await self._router(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await problem_response(Problem(404, "nothing is here"))(scope, receive, send)
