// Store: what this browser remembers: cookies and localStorage, and memory where it refuses both.

/** @type {Map<string, string>} */
const memory = new Map();

/** @type {Storage|null} */
let disk = null;

function openStore() {
  try {
    disk = localStorage;
    if (!isQuiet()) return;
    // For a quiet visitor nothing outlives the tab.
    forgetAll();
    disk = sessionStorage;
  } catch (refused) {
    disk = null;
  }
}

/** @param {string} key */
function get(key) {
  return memory.get(key) || (disk && disk.getItem(key));
}

/**
 * @param {string} key
 * @param {string|number} value
 */
function put(key, value) {
  memory.set(key, String(value));
  try {
    /** @type {Storage} */ (disk).setItem(key, String(value));
    memory.delete(key);
  } catch (noneOrFull) {
    // Then memory has it.
  }
}

/** @param {string} key */
function remove(key) {
  memory.delete(key);
  if (disk) disk.removeItem(key);
}

/** Every key of ours. */
function keys() {
  return [...memory.keys(), ...Object.keys(disk || {})].filter((key) => key.startsWith('_gt_'));
}

/** @param {string} name @returns {string} '' also where the document has no cookies, as in a sandbox */
function readCookie(name) {
  try {
    return isQuiet() ? '' : (document.cookie.match('(?:^|; )' + name + '=([^;]*)') || [])[1] || '';
  } catch (noneOrRefused) {
    return '';
  }
}

/**
 * @param {string} name
 * @param {string} value
 * @param {number} [maxAge] seconds; without it the cookie ends with the browser
 */
function writeCookie(name, value, maxAge) {
  try {
    document.cookie = name + '=' + value + '; Path=/; SameSite=Lax' + (isSecure ? '; Secure' : '') +
      (config.domain ? '; Domain=' + config.domain : '') + (maxAge === undefined ? '' : '; Max-Age=' + maxAge);
  } catch (refused) {
    // remember() keeps it elsewhere.
  }
}

/** @param {string} name */
function recall(name) {
  return get(name) || readCookie(name);
}

/**
 * Keeps a value in a cookie, so that sub-domains share it, else in the store.
 * @param {string} name
 * @param {string} value
 * @param {number} [maxAge] seconds
 */
function remember(name, value, maxAge) {
  if (!isQuiet()) writeCookie(name, value, maxAge);
  if (readCookie(name) === value) remove(name);
  else put(name, value);
}

/** Leaves no trace in this browser. */
function forgetAll() {
  ['_gt_vid', '_gt_gvid'].forEach((name) => writeCookie(name, '', 0));
  keys().forEach(remove);
}
