"""The ASGI application of the gateway: beacons first, then static files, then the routes of the APIs."""

import asyncio

from footfall_eventlog.attention import AttentionRules
from footfall_eventlog.site_groups import SiteGroups
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from footfall_gateway.api_v1 import (
    AttentionApi,
    ContactsApi,
    ContextApi,
    CountsApi,
    DoubtsApi,
    HealthApi,
    InteractionsApi,
    LiveApi,
    PrivacyApi,
    QualityApi,
    ReceiptsApi,
    SessionApi,
    SharingApi,
    VisitorsApi,
)
from footfall_gateway.auth import Audit, Authenticator, Sessions
from footfall_gateway.backends import Backends
from footfall_gateway.beacons import BEACON_DESCRIPTION, BeaconEndpoint, Intake
from footfall_gateway.browser import (
    ORIGINAL_FOLDERS,
    DslFile,
    EngagementApi,
    Links,
    VisitCodes,
    cookie_api,
    load_tracker_files,
)
from footfall_gateway.history_api import HistoryReads, HistoryWrites, Lookup
from footfall_gateway.http import (
    Api,
    BodyReader,
    Files,
    Gate,
    asset_folder,
    browser_file,
    describe,
    folder_files,
    routes,
)
from footfall_gateway.probes import Probes
from footfall_gateway.problem import HISTORY_ERRORS, PROBLEM_DETAILS, Problem
from footfall_gateway.settings import GatewaySettings
from footfall_gateway.trackers import TrackerEndpoint

HISTORY_PREFIXES = ("/server/data", "/backend/data")
"""Of Genesys Web Engagement 8.5 and 8.1."""
DSL_PATHS = tuple(f"{folder}/dsl/domain-model.xml" for folder in ORIGINAL_FOLDERS)


def build(
    settings: GatewaySettings,
    backends: Backends,
    intake: Intake,
    beacons: BeaconEndpoint,
    probes: Probes,
    *,
    site_groups: SiteGroups,
    links: Links,
    codes: VisitCodes,
    bodies: BodyReader,
    sessions: Sessions,
    health: HealthApi,
    stopping: asyncio.Event,
) -> ASGIApp:
    """The application. Endless responses end when `stopping` is set.

    Raises:
        DslFileError: DSL_FILE cannot be used.
        AttentionFileError: ATTENTION_FILE cannot be used.

    """
    authenticator = Authenticator(
        user=settings.api_user,
        password=settings.api_password.get_secret_value(),
        keys_file=settings.keys_file,
        allows_anonymous=settings.allow_anonymous,
        has_sites_file=settings.sites_file is not None,
        max_failures_per_minute=settings.max_failed_logins_per_minute,
        max_queued_hashes=settings.max_queued_hashes,
        sessions=sessions,
    )
    gate = Gate(authenticator, Audit(next(iter(settings.audit_secrets), "")), bodies)
    lookup = Lookup(backends)
    history = [
        *HistoryReads(backends, lookup).operations(),
        *HistoryWrites(intake, lookup, site_groups).operations(),
    ]
    footfall = [
        *VisitorsApi(backends).operations(),
        *CountsApi(backends).operations(),
        *AttentionApi(AttentionRules.load(settings.attention_file)).operations(),
        *ContactsApi(backends, gate.audit).operations(),
        *DoubtsApi(backends).operations(),
        *SharingApi(backends).operations(),
        *ContextApi(backends).operations(),
        *InteractionsApi(backends).operations(),
        *PrivacyApi(backends).operations(),
        *QualityApi(backends).operations(),
        *ReceiptsApi(backends).operations(),
        *health.operations(),
        *LiveApi(backends, authenticator, settings, stopping).operations(),
        *SessionApi(authenticator).operations(),
    ]
    apis = [
        Api("History", HISTORY_PREFIXES, history, HISTORY_ERRORS),
        Api("Footfall", ("/api/v1",), footfall, PROBLEM_DETAILS, refuses_unknown_parameters=True),
        cookie_api(),
        links.api(),
        codes.api(),
        probes.api(),
    ]
    engagement = EngagementApi(beacons.cors).api()
    table: list[BaseRoute] = [route for api in [*apis, engagement] for route in routes(api, gate)]
    files = _files(settings, describe(apis, BEACON_DESCRIPTION))
    return _dispatcher(beacons, files, Router(table, redirect_slashes=False, default=_not_found))


def _files(settings: GatewaySettings, description: bytes) -> Files:
    known = load_tracker_files(settings.visit_idle_minutes)
    known["/openapi.json"] = browser_file(description, "application/json", 60)
    known.update(folder_files("/docs", asset_folder("docs")))
    for page in ("demo", "console"):
        known.update(folder_files(f"/{page}", asset_folder("console") / page))
    embedders = [*filter(None, map(str.strip, settings.console_frame_ancestors.split(",")))]
    return Files(known, dict.fromkeys(DSL_PATHS, DslFile(settings.dsl_file).current), "/console/", embedders)


def _dispatcher(beacons: BeaconEndpoint, files: Files, router: Router) -> ASGIApp:
    """An application that routes by the raw path: `%2F` in an id separates no segments, which are decoded later."""
    trackers = TrackerEndpoint(beacons)
    # The router tries one pattern after the other.
    fixed = {route.path: route for route in router.routes if isinstance(route, Route) and "{" not in route.path}

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in BeaconEndpoint.paths:
            await beacons(scope, receive, send)
        elif path in trackers:
            await trackers(scope, receive, send)
        elif path in files:
            await files(scope, receive, send)
        else:
            path = scope["path"] = scope["raw_path"].decode("ascii")
            if path in fixed:
                scope["path_params"] = {}
                await fixed[path].handle(scope, receive, send)
            else:
                await router(scope, receive, send)

    return dispatch


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/":
        await RedirectResponse("/docs/", 307)(scope, receive, send)
        return
    style = HISTORY_ERRORS if scope["path"].startswith(HISTORY_PREFIXES) else PROBLEM_DETAILS
    await style.response(Problem(404, "this path does not exist; /docs/ lists all paths"))(scope, receive, send)
