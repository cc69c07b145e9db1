// Store: what this browser remembers: cookies and localStorage, and memory where it refuses both.
// Names and keys are given without what all of ours begin with.

const OURS = GLOBAL + '_';

const COOKIES = ['vid', 'gvid'];

/** @type {Map<string, string>} */
const memory = new Map();

/** @type {Storage|null} */
let disk = null;

/** What our cookies are set for: a domain, or '' for this host alone. */
let domain = '';

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
 * @param {string} [at] the domain
 */
function writeCookie(name, value, maxAge, at = domain) {
  try {
    document.cookie = OURS + name + '=' + value + '; Path=/; SameSite=Lax' + (isSecure ? '; Secure' : '') +
      (at && '; Domain=' + at) + (maxAge === undefined ? '' : '; Max-Age=' + maxAge);
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
 */
function remember(name, value) {
  if (!isQuiet()) writeCookie(name, value, name === 'gvid' ? YEAR_S : undefined);
  if (readCookie(name) === value) remove(name);
  else put(name, value);
}

/** What domains cookies of this host can have, the widest first: two labels of its name, three, and so on. */
function domains() {
  const labels = location.hostname.split('.');
  // An address has none.
  return /[^\d.]/.test(location.hostname) ? labels.slice(1).map((_, index) => labels.slice(-2 - index).join('.')) : [];
}

/**
 * Finds the domain of our cookies: the widest that the browser accepts, which it does not for one like `co.uk`.
 * Found once by each host, which then moves there what it has kept in cookies of its own.
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
    // What another host of the domain has brought there stays.
    if (id && !readCookie(name)) remember(name, id);
  });
}

/** @param {string} at a domain */
function isAccepted(at) {
  // Its name is of this page, for another may be trying too.
  writeCookie(tab, '1', 9, at);
  const isKept = readCookie(tab);
  writeCookie(tab, '', 0, at);
  return isKept;
}

/** Removes a cookie of ours from all domains but one. @param {string} name @param {string} [kept] */
function dropCookie(name, kept) {
  ['', ...domains()].forEach((at) => at === kept || writeCookie(name, '', 0, at));
}

/** Leaves no trace in this browser. */
function forgetAll() {
  COOKIES.forEach((name) => dropCookie(name));
  keys().forEach(remove);
}
