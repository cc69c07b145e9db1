// Start: installs the commands, and begins once consent, configuration and the page are ready.

/** Whether begin() may run now. */
function mayBegin() {
  const { prerendering } = /** @type {Document & {prerendering?: boolean}} */ (document);
  return !isStarted && !prerendering && consent !== false && (config.consent !== 'required' || consent);
}

/** Begins, unless it is too early: then a later event calls again. */
function start() {
  const isParsing = document.readyState === 'loading';
  if (!mayBegin() || (isParsing && !(isConfigured && document.title))) return;
  // One tab at a time, so that two that open together do not start two visits.
  if (locks) {
    locks.request(OURS, agree).catch(() => {
      locks = undefined;
      agree();
    });
  } else agree();
}

/** Begins. Where a page of another host may start a visit at the same time: once both have agreed on its id. */
function agree() {
  if (!mayBegin()) return undefined;
  openStore();
  findDomain();
  const { id, last } = readVisit();
  if (!isIdle(last)) return begin();
  if (brought && config.linkDomains) return loadLinks().then(begin);
  if (!domain) return begin();
  const mine = visitStyleID();
  if (!id || last) writeVisit(mine, 0);
  return whenAgreed(mine, 20);
}

/**
 * Begins once this page's id has won, or the other page has started the visit; that page may be gone, so at the latest
 * after so many moments.
 * @param {string} mine
 * @param {number} moments
 * @returns {Promise<unknown>}
 */
function whenAgreed(mine, moments) {
  return aMoment().then(() => {
    const { id, last } = readVisit();
    return id === mine || last || !moments ? begin() : whenAgreed(mine, moments - 1);
  });
}

/** The timer of `heartbeat`. @type {number|undefined} */
let heart;

function begin() {
  if (!mayBegin()) return;
  isStarted = true;
  ensurePage();
  if (globals._gwc) commands.on();
  held.splice(0).forEach(safely(run));
  loadRules();
  heart = heart || (config.heartbeat && setInterval(whenStarted(beat), config.heartbeat * 1000));
  if (config.linkDomains) loadLinks();
}

/** Consent is refused or withdrawn: sends nothing, and deletes everything stored. */
function stop() {
  isStarted = false;
  page.isOpen = false;
  held.length = 0;
  openStore();
  forgetAll();
}

let rulesAreLoading = false;

/** Loads dsl.js, which raises the business events of the configured DSL. */
function loadRules() {
  if (!config.dslResource || rulesAreLoading) return;
  rulesAreLoading = true;
  const { dataset } = load('/tracker-dsl.js?v=DSL_VERSION');
  dataset.dsl = config.dslResource;
  dataset.global = GLOBAL;
  // In GWE, `GTCJ.min.js` is `GTC.min.js` with jQuery.
  if (script && /J(\.min)?\.js/.test(script.src)) dataset.jquery = '';
  if (config.debug) dataset.debug = '';
}

/** Loads another file of the gateway. Returns its element, for parameters. @param {string} path */
function load(path) {
  const element = document.createElement('script');
  element.src = endpoint() + path;
  element.nonce = (script || element).nonce;
  return document.head.appendChild(element);
}

const globals = /** @type {any} */ (window);
// Without the snippet, `_gt` is the script element of that id.
const calls = Array.isArray(globals[GLOBAL]) ? globals[GLOBAL] : [];
// A second copy of this script finds the `push` of the first, and does nothing.
if (!Object.keys(calls).includes('push')) {
  globals[GLOBAL] = calls;
  calls.push = (/** @type {any[]} */ ...more) => {
    more.forEach(safely(accept));
    return 0;
  };
  safely(cleanAddress)();
  watchPage();
  document.addEventListener('DOMContentLoaded', safely(start));
  document.addEventListener('prerenderingchange', safely(start));
  addEventListener('pagehide', safely(() => {
    agree();
    begin();
    if (isStarted) onPageHide();
  }));
  calls.splice(0).forEach(safely(accept));
  safely(start)();
}
