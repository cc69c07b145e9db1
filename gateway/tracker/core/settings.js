// Settings: the page's configuration, and the address of the gateway.

/**
 * The options of `_gt.push(['config', {...}])`, described in docs/site/script.md.
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
 * @property {number} [heartbeat]
 */

/** @type {Config} */
const config = {};

const script = /** @type {HTMLScriptElement} */ (document.currentScript || document.getElementById('_gt'));

/** Name of the global, and prefix of cookies and storage keys. A page may also have the tracker of GWE. */
const GLOBAL = (script && script.dataset.global) || '_gt';

const isSecure = location.protocol === 'https:';

/** Address of the gateway without a slash at its end: the configured one, or else that of this script. */
function endpoint() {
  const configured = isSecure ? config.httpsEndpoint : config.httpEndpoint || config.httpsEndpoint;
  return (configured || script.src).replace(/\/(tracker\.js|(server|frontend)\/resources\/).*|\/+$/, '');
}

/** Whether the visitor's browser asks not to be tracked, and the site honours that. */
function isQuiet() {
  const { globalPrivacyControl, doNotTrack } = /** @type {Navigator & {globalPrivacyControl?: boolean}} */ (navigator);
  return !!config.privacySignals && (globalPrivacyControl === true || doNotTrack === '1');
}

/** @param {...unknown} what */
function debug(...what) {
  if (config.debug) console.log('[' + GLOBAL + ']', ...what);
}

/**
 * The function, without errors for the page.
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
