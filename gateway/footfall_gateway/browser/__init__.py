"""Files for browsers (the tracking script, the DSL of a site), and the requests of pages other than beacons."""

from footfall_gateway.browser.cookie import cookie_api
from footfall_gateway.browser.dsl import Code, DslFile, DslFileError, Fault, check_dsl_file, load_dsl_file
from footfall_gateway.browser.engagement import EngagementApi
from footfall_gateway.browser.links import Links
from footfall_gateway.browser.tracker_bundle import ORIGINAL_FOLDERS, load_tracker_files
from footfall_gateway.browser.visit_codes import VisitCodes
