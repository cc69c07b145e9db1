// Settings: what the page may configure, and where its events go.

/**
 * The options of `_gt.push(['config', {...}])`; docs/site/script.md says what each does.
 * @typedef {Object} Config
 * @property {string} [httpEndpoint]
 * @property {string} [httpsEndpoint]
 * @property {string} [dslResource]
 * @property {string} [languageCode]
 * @property {boolean} [debug]
 * @property {boolean} [disableWebSockets]
 * @property {string} [site]
 * @property {string} [domain]
 * @property {string} [cookieDomain]
 * @property {string} [domainName]
 * @property {string[]} [linkDomains]
 * @property {'required'} [consent]
 * @property {boolean} [privacySignals]
 * @property {boolean} [hashRouting]
 * @property {boolean} [historyRouting]
 */

/** @type {Config} */
const config = {};

const script = /** @type {HTMLScriptElement} */ (document.currentScript || document.getElementById('_gt'));

/** Name of the global, and what all that it keeps is named after: a page may carry the original's tracker as well. */
const GLOBAL = (script && script.dataset.global) || '_gt';

const isSecure = location.protocol === 'https:';

/** Address of the gateway without a slash at its end: the configured one, else what this script's begins with. */
function endpoint() {
  const configured = isSecure ? config.httpsEndpoint : config.httpEndpoint || config.httpsEndpoint;
  return (configured || script.src).replace(/\/(tracker\.js|(server|frontend)\/resources\/).*|\/+$/, '');
}

/** Whether the visitor's browser asks not to be tracked and the site wants that honoured. */
function isQuiet() {
  const { globalPrivacyControl, doNotTrack } = /** @type {Navigator & {globalPrivacyControl?: boolean}} */ (navigator);
  return !!config.privacySignals && (globalPrivacyControl === true || doNotTrack === '1');
}

/** @param {...unknown} what */
function debug(...what) {
  if (config.debug) console.log('[' + GLOBAL + ']', ...what);
}

/**
 * The function, but never an error for the page it runs in.
 * @template {unknown[]} A
 * @param {(...args: A) => unknown} act
 * @returns {(...args: A) => void}
 */
function safely(act) {
  return (...args) => {
    try {
      act(...args);
    } catch (error) {
      debug(error);
    }
  };
}
