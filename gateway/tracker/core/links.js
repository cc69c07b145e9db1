// Links: a visit that a link has brought from another domain of the owner. Its other half is `../links.js`.

// How long a page with a brought visit waits for that half before it begins without.
const LINK_TIMEOUT_MS = 2000;

/** The visit and the browser that the address has named. */
let brought = '';

/** Takes them out of the address, at once: other scripts send it further. */
function cleanAddress() {
  const clean = location.href.replace(/([?&])_gt_link=([^&#]*)(&?)/, (_, before, name, after) => {
    brought = name;
    return after && before;
  });
  if (brought) history.replaceState(history.state, '', clean);
}

/** @type {Promise<unknown>|undefined} */
let links;

/** Loads the other half, once; done when it has looked at what was brought. */
function loadLinks() {
  links = links || new Promise((done) => {
    setTimeout(done, LINK_TIMEOUT_MS);
    /** @type {any} */ (load('/tracker-links.js?v=LINKS_VERSION'))._gt =
      { brought, config, debug, domain, done, endpoint, page, remember, browser: globalVisitID, enter: ensurePage };
  });
  return links;
}
