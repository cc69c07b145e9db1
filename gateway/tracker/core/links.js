// Links: a visit that a link carries from another domain of the site's owner. The rest is in `../links.js`.

// How long a page with such a link waits for links.js before it begins a visit of its own.
const LINK_TIMEOUT_MS = 2000;

/** The visit and the browser that the page's address names. */
let brought = '';

/** Removes them from the address immediately, because other scripts may pass it on. */
function cleanAddress() {
  const clean = location.href.replace(/([?&])_gt_link=([^&#]*)(&?)/, (_, before, name, after) => {
    brought = name;
    return after && before;
  });
  if (brought) history.replaceState(history.state, '', clean);
}

/** @type {Promise<unknown>|undefined} */
let links;

/** Loads links.js once. Done when links.js has decided about the visit. */
function loadLinks() {
  links = links || new Promise((done) => {
    setTimeout(done, LINK_TIMEOUT_MS);
    /** @type {any} */ (load('/tracker-links.js?v=LINKS_VERSION'))._gt =
      { brought, config, debug, domain, done, endpoint, page, remember, browser: globalVisitID, enter: ensurePage };
  });
  return links;
}
