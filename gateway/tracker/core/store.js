// Store: what this browser remembers: cookies and localStorage, and memory where it refuses both.
// Names and keys are given without what all of ours begin with.

const OURS = GLOBAL + '_';

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
  return memory.get(key) || (disk && disk.getItem(OURS + key));
}

/**
 * @param {string} key
 * @param {string|number} value
 */
function put(key, value) {
  memory.set(key, String(value));
  try {
    /** @type {Storage} */ (disk).setItem(OURS + key, String(value));
    memory.delete(key);
  } catch (noneOrFull) {
    // Then memory has it.
  }
}

/** @param {string} key */
function remove(key) {
  memory.delete(key);
  if (disk) disk.removeItem(OURS + key);
}

/** Every key of ours. */
function keys() {
  const onDisk = Object.keys(disk || {}).filter((key) => key.startsWith(OURS));
  return [...memory.keys(), ...onDisk.map((key) => key.slice(OURS.length))];
}

/** @param {string} name @returns {string} '' also where the document has no cookies, as in a sandbox */
function readCookie(name) {
  try {
    return isQuiet() ? '' : (document.cookie.match('(?:^|; )' + OURS + name + '=([^;]*)') || [])[1] || '';
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
    document.cookie = OURS + name + '=' + value + '; Path=/; SameSite=Lax' + (isSecure ? '; Secure' : '') +
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
  ['vid', 'gvid'].forEach((name) => writeCookie(name, '', 0));
  keys().forEach(remove);
}
