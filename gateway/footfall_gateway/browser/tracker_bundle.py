"""Builds the tracking script: the sources in `gateway/tracker`, joined, minified, compressed and versioned."""

import re
from functools import cache
from importlib import resources
from pathlib import Path

import rjsmin

from footfall_gateway.browser.short_names import with_short_names
from footfall_gateway.http import BrowserFile, asset_folder, browser_file

ORIGINAL_FOLDERS = ("/server/resources", "/frontend/resources")
"""The folders of Genesys Web Engagement 8.5 and 8.1."""
SCRIPT_PATHS = (
    "/tracker.js",
    *(
        f"{folder}/js/build/{name}{suffix}"
        for folder in ORIGINAL_FOLDERS
        for name in ("GTC", "GTCJ", "GPE", "GPEJ")
        for suffix in (".min.js", ".js")
    ),
)
DSL_SCRIPT_PATH = "/tracker-dsl.js"
LINKS_SCRIPT_PATH = "/tracker-links.js"
JQUERY_PATH = "/tracker-jquery.js"

_JAVASCRIPT = "text/javascript; charset=utf-8"

# The other parts only declare, so their order is free; `start.js` runs them.
_CORE_PARTS = (
    "settings",
    "store",
    "visit",
    "json",
    "queue",
    "delivery",
    "pages",
    "commands",
    "codes",
    "links",
    "start",
)


def load_tracker_files(idle_minutes: int, folder: Path | None = None) -> dict[str, BrowserFile]:
    """Build the scripts of the tracker, by URL path. They are made once for each process.

    A visit ends after `idle_minutes` without an event. Raises FileNotFoundError when a part is missing from `folder`.
    """
    folder = folder or asset_folder("tracker")
    jquery = _jquery()
    dsl = _script((folder / "dsl.js").read_text("utf-8").replace("JQUERY_VERSION", jquery.version))
    links = _script((folder / "links.js").read_text("utf-8"))
    source = "\n".join((folder / "core" / f"{part}.js").read_text("utf-8") for part in _CORE_PARTS)
    values = {"DSL_VERSION": dsl.version, "LINKS_VERSION": links.version, "IDLE_MINUTES": str(idle_minutes)}
    core = _script(re.sub("|".join(values), lambda name: values[name[0]], source))
    return {JQUERY_PATH: jquery, DSL_SCRIPT_PATH: dsl, LINKS_SCRIPT_PATH: links, **dict.fromkeys(SCRIPT_PATHS, core)}


# Where there is a `module`, jQuery exports itself to it instead of setting the globals `$` and `jQuery` or calling
# `define`. This wrapper gives it a `module` of its own, so the page's jQuery stays; dsl.js reads it from the element.
_JQUERY = """\
(function (script, module, define) {
%s
script.jQuery = module.exports;
})(document.currentScript, { exports: {} });
"""


@cache
def _jquery() -> BrowserFile:
    """The jQuery of the package XStatic-jQuery, already minified, with its licence line."""
    source = resources.files("xstatic.pkg.jquery").joinpath("data/jquery.min.js").read_text("utf-8")
    return browser_file((_JQUERY % source).encode(), _JAVASCRIPT)


@cache
def _script(source: str) -> BrowserFile:
    minified = str(rjsmin.jsmin("(function () {'use strict';\n" + source + "\n})();"))
    return browser_file(with_short_names(minified).encode(), _JAVASCRIPT)
