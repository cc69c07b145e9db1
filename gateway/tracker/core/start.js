// Start: takes over the global and begins once consent, configuration and the page are there.

/** Whether begin() may run now. */
function mayBegin() {
  const { prerendering } = /** @type {Document & {prerendering?: boolean}} */ (document);
  return !isStarted && !prerendering && consent !== false && (config.consent !== 'required' || consent);
}

/** Begins, unless it is too early: then the next occasion calls again. */
function start() {
  const isParsing = document.readyState === 'loading';
  if (!mayBegin() || (isParsing && !(isConfigured && document.title))) return;
  // One tab at a time, so that two that open together do not start two visits.
  if (locks) {
    locks.request(OURS, begin).catch(() => {
      locks = undefined;
      begin();
    });
  } else begin();
}

function begin() {
  if (!mayBegin()) return;
  openStore();
  isStarted = true;
  ensurePage();
  if (globals._gwc) commands.on();
  held.splice(0).forEach(safely(run));
  loadRules();
}

/** Consent is refused or withdrawn: nothing goes out, nothing stays. */
function stop() {
  isStarted = false;
  page.isOpen = false;
  held.length = 0;
  openStore();
  forgetAll();
}

let rulesAreLoading = false;

/** Loads the second file, which raises the business events of the configured DSL. */
function loadRules() {
  if (!config.dslResource || rulesAreLoading) return;
  rulesAreLoading = true;
  const element = document.createElement('script');
  const { src, nonce } = script || element;
  element.src = endpoint() + '/tracker-dsl.js?v=DSL_VERSION';
  element.nonce = nonce;
  element.dataset.dsl = config.dslResource;
  element.dataset.global = GLOBAL;
  // Of the original, `GTCJ.min.js` is `GTC.min.js` with jQuery.
  if (/J(\.min)?\.js/.test(src)) element.dataset.jquery = '';
  if (config.debug) element.dataset.debug = '';
  document.head.appendChild(element);
}

const globals = /** @type {any} */ (window);
// Without the snippet, `_gt` is the script element of that id.
const calls = Array.isArray(globals[GLOBAL]) ? globals[GLOBAL] : [];
// A second copy of this script finds the first one's `push` and leaves it alone.
if (!Object.keys(calls).includes('push')) {
  globals[GLOBAL] = calls;
  calls.push = (/** @type {any[]} */ ...more) => {
    more.forEach(safely(accept));
    return 0;
  };
  watchPage();
  document.addEventListener('DOMContentLoaded', safely(start));
  document.addEventListener('prerenderingchange', safely(start));
  addEventListener('pagehide', safely(() => {
    begin();
    if (isStarted) onPageHide();
  }));
  calls.splice(0).forEach(safely(accept));
  safely(start)();
}
