// Store: what this browser remembers: cookies and localStorage, and memory where it refuses both.

/** @type {Map<string, string>} */
const memory = new Map();

/** @type {Storage|null} */
let disk = null;

/** Where cookies are, unless the document is sandboxed. */
let cookies = { cookie: '' };

function openStore() {
  try {
    if (document.cookie !== null) cookies = document;
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
  try {
    /** @type {Storage} */ (disk).setItem(key, String(value));
  } catch (noneOrFull) {
    memory.set(key, String(value));
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

/** @param {string} name */
function readCookie(name) {
  const found = isQuiet() ? null : cookies.cookie.match('(?:^|; )' + name + '=([^;]*)');
  return found ? found[1] : '';
}

/**
 * @param {string} name
 * @param {string} value
 * @param {number} [maxAge] seconds; without it the cookie ends with the browser
 */
function writeCookie(name, value, maxAge) {
  cookies.cookie = name + '=' + value + '; Path=/; SameSite=Lax' + (isSecure ? '; Secure' : '') +
    (config.domain ? '; Domain=' + config.domain : '') + (maxAge === undefined ? '' : '; Max-Age=' + maxAge);
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
