"""The sources in `gateway/tracker` into the files browsers load: joined, minified, compressed, versioned."""

import re
from importlib import resources
from pathlib import Path

import rjsmin

from footfall_gateway.browser.short_names import with_short_names
from footfall_gateway.http import BrowserFile, asset_folder, packed

ORIGINAL_FOLDERS = ("/server/resources", "/frontend/resources")
"""Where pages of 8.5 and of 8.1 look for files."""
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

# The parts only declare, in an order of their own choosing; `start.js` runs, so it comes last.
_CORE_PARTS = ("settings", "store", "visit", "json", "queue", "delivery", "pages", "commands", "links", "start")


def load_tracker_files(idle_minutes: int, folder: Path | None = None) -> dict[str, BrowserFile]:
    """Build every script of the tracker, by URL path; a few milliseconds, to be done once at start.

    A visit ends after `idle_minutes` without an event. Raises FileNotFoundError when a part is missing from `folder`.
    """
    folder = folder or asset_folder("tracker")
    jquery = _jquery()
    dsl = _script((folder / "dsl.js").read_text("utf-8").replace("JQUERY_VERSION", jquery.version))
    links = _script((folder / "links.js").read_text("utf-8"))
    source = "\n".join((folder / "core" / f"{part}.js").read_text("utf-8") for part in _CORE_PARTS)
    told = {"DSL_VERSION": dsl.version, "LINKS_VERSION": links.version, "IDLE_MINUTES": str(idle_minutes)}
    core = _script(re.sub("|".join(told), lambda name: told[name[0]], source))
    return {JQUERY_PATH: jquery, DSL_SCRIPT_PATH: dsl, LINKS_SCRIPT_PATH: links, **dict.fromkeys(SCRIPT_PATHS, core)}


# jQuery gives itself to `module` where there is one, instead of becoming `$` and `jQuery`, or what `define` of an AMD
# loader is told about. These are its own, so nothing of the page is touched: dsl.js takes it from the script's element.
_JQUERY = """\
(function (script, module, define) {
%s
script.jQuery = module.exports;
})(document.currentScript, { exports: {} });
"""


def _jquery() -> BrowserFile:
    """The jQuery of the package XStatic-jQuery, minified by its makers, with the line that names its licence."""
    source = resources.files("xstatic.pkg.jquery").joinpath("data/jquery.min.js").read_text("utf-8")
    return packed((_JQUERY % source).encode(), _JAVASCRIPT)


def _script(source: str) -> BrowserFile:
    minified = str(rjsmin.jsmin("(function () {'use strict';\n" + source + "\n})();"))
    return packed(with_short_names(minified).encode(), _JAVASCRIPT)
