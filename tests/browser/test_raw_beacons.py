"""Three pages on another origin, without our script: the beacons of a browser are stored completely and in order."""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Browser

from tests.tools.eventually import eventually
from tests.tools.suite import Suite

PAGE = """<!doctype html><meta charset="utf-8"><title>{name}</title><body>
<script>
  const gateway = "{gateway}";
  function event(name, data) {{
    const last = Number(sessionStorage.last || 0);
    const timestamp = Math.max(Date.now(), last + 1);
    sessionStorage.last = timestamp;
    return {{ eventName: name, eventID: crypto.randomUUID(), visitID: "{visit_id}", timestamp,
             pageID: "{page_id}", url: location.href, data: data || {{}} }};
  }}
  {script}
</script>"""

BY_BEACON = """
  navigator.sendBeacon(gateway + "/beacon", JSON.stringify([event("VisitStarted"), event("PageEntered")]));
  addEventListener("pagehide", () => navigator.sendBeacon(gateway + "/beacon", JSON.stringify(event("PageExited"))));
"""
BY_FETCH = """
  const send = (body) => fetch(gateway + "/beacon", {
    method: "POST", keepalive: true, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  send({ sentAt: Date.now(), events: [event("PageEntered"), event("SignIn", { userID: "dana@example.com" })] });
  addEventListener("pagehide", () => send([event("PageExited")]));
"""
BY_PIXEL = """
  const pixel = (e) => {
    new Image().src = gateway + "/beacon.gif?e=" + btoa(JSON.stringify(e)).replace(/\\+/g, "-").replace(/\\//g, "_");
  };
  pixel(event("PageEntered")); pixel(event("SignOut"));
"""


@contextmanager
def site(gateway: str, visit_id: str, scripts: dict[str, str]) -> Iterator[str]:
    """A website on a port of its own; gives its origin."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = parse_qs(urlsplit(self.path).query).get("page", [""])[0]
            page_id = uuid.uuid4().hex
            script = scripts.get(name, "")
            body = PAGE.format(name=name, gateway=gateway, visit_id=visit_id, page_id=page_id, script=script).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_three_pages_by_beacon_fetch_and_pixel(suite: Suite, browser: Browser) -> None:
    visit_id = str(uuid.uuid4())
    scripts = {"a": BY_BEACON, "b": BY_FETCH, "c": BY_PIXEL}
    context = await browser.new_context()
    with site(suite.url, visit_id, scripts) as origin:
        page = await context.new_page()
        for name in scripts:
            await page.goto(f"{origin}/?page={name}")
        await page.wait_for_load_state("networkidle")
        await context.close()

    expected = [
        ("VisitStarted", "a"), ("PageEntered", "a"), ("PageExited", "a"),
        ("PageEntered", "b"), ("SignIn", "b"), ("PageExited", "b"),
        ("PageEntered", "c"), ("SignOut", "c"),
    ]  # fmt: skip
    async with suite.http() as http:

        async def stored() -> None:
            answer = await http.get(f"/server/data/visits/{visit_id}/events")
            assert answer.status_code == 200
            listed = [(e["eventName"], urlsplit(e["url"]).query.removeprefix("page=")) for e in answer.json()]
            assert listed == expected, json.dumps(listed)

        await eventually(stored)
        visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
        assert (visitor["state"], visitor["identityId"]) == ("RECOGNIZED", "dana@example.com")
