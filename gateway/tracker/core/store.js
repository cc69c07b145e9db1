// Store: cookies and localStorage, or memory where the browser refuses both.
// Names and keys are given without their common prefix.

const OURS = GLOBAL + '_';

const COOKIES = ['vid', 'gvid'];

/** @type {Map<string, string>} */
const memory = new Map();

/** @type {Storage|null} */
let disk = null;

/** The domain of our cookies; '' for this host alone. */
let domain = '';

function openStore() {
  try {
    disk = localStorage;
    if (!isQuiet()) return;
    // For a visitor who asks not to be tracked, nothing outlives the tab.
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
    // The value stays in memory.
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

/** @param {string} name @returns {string} '' also where the document has no cookies, as in a sandboxed frame */
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
 * @param {string} [at] the domain
 */
function writeCookie(name, value, maxAge, at = domain) {
  try {
    document.cookie = OURS + name + '=' + value + '; Path=/; SameSite=Lax' + (isSecure ? '; Secure' : '') +
      (at && '; Domain=' + at) + (maxAge === undefined ? '' : '; Max-Age=' + maxAge);
  } catch (refused) {
    // remember() stores it elsewhere.
  }
}

/** @param {string} name */
function recall(name) {
  return get(name) || readCookie(name);
}

/**
 * Stores a value in a cookie, which sub-domains share, or else in the store.
 * @param {string} name
 * @param {string} value
 */
function remember(name, value) {
  if (!isQuiet()) writeCookie(name, value, name === 'gvid' ? YEAR_S : undefined);
  if (readCookie(name) === value) remove(name);
  else put(name, value);
}

/** The possible domains for cookies of this host, the widest first: two labels of its name, three, and so on. */
function domains() {
  const labels = location.hostname.split('.');
  // An IP address has none.
  return /[^\d.]/.test(location.hostname) ? labels.slice(1).map((_, index) => labels.slice(-2 - index).join('.')) : [];
}

/**
 * Finds the domain of our cookies: the widest that the browser accepts. Browsers refuse public suffixes such as `co.uk`.
 * Each host does so once, and then moves the values of its own cookies there.
 */
function findDomain() {
  const asked = config.domain || config.cookieDomain || config.domainName || '';
  const key = 'domain.' + asked;
  domain = get(key) || '';
  if (domain || isQuiet()) return;
  domain = domains().find((at) => (!asked || asked === at || asked === '.' + at) && isAccepted(at)) || '';
  if (!domain) return;
  put(key, domain);
  COOKIES.forEach((name) => {
    const id = recall(name);
    remove(name);
    dropCookie(name, domain);
    // A value that another host of the domain has moved there stays.
    if (id && !readCookie(name)) remember(name, id);
  });
}

/** @param {string} at a domain */
function isAccepted(at) {
  // The name is unique to this page, because other pages may try too.
  writeCookie(tab, '1', 9, at);
  const isKept = readCookie(tab);
  writeCookie(tab, '', 0, at);
  return isKept;
}

/** Removes a cookie of ours from all domains but one. @param {string} name @param {string} [kept] */
function dropCookie(name, kept) {
  ['', ...domains()].forEach((at) => at === kept || writeCookie(name, '', 0, at));
}

/** Deletes everything that this script has stored. */
function forgetAll() {
  COOKIES.forEach((name) => dropCookie(name));
  keys().forEach(remove);
}
