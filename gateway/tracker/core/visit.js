// Visit: the ids of the browser and of the visit, and the time of its last event.

const IDLE_MS = +'IDLE_MINUTES' * 60 * 1000;
const YEAR_S = 365 * 24 * 60 * 60;

/** A version 4 UUID as 32 lower-case hex digits. */
function randomID() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  // Prototype.js replaces Array.from.
  return [...bytes].map((byte) => (byte + 256).toString(16).slice(1)).join('');
}

/** An id in the format of events and pages. */
function pageStyleID() {
  return randomID().toUpperCase();
}

/** An id in the format of visits and browsers. */
function visitStyleID() {
  return randomID().replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** @param {string} id */
function isVisitStyleID(id) {
  return /^[0-9a-f-]{36}$/.test(id);
}

/**
 * The current visit, shared by all tabs: its id ('' when there is none) and its last timestamp, 0 before it has
 * started.
 */
function readVisit() {
  const [id, last] = recall('vid').split('.');
  return isVisitStyleID(id) ? { id, last: Number(last) || 0 } : { id: '', last: 0 };
}

/** @param {string} id @param {number} last */
function writeVisit(id, last) {
  remember('vid', id + '.' + last);
}

/** Whether the visit is over. A clock that is set back by as much also ends it, or its timestamps would not advance. */
function isIdle(/** @type {number} */ time) {
  return Math.abs(Date.now() - time) > IDLE_MS;
}

/**
 * The id of this browser; '' for a visitor who asks not to be tracked.
 * @param {boolean} [isVisitStart] renews the cookie for a year
 */
function globalVisitID(isVisitStart) {
  if (isQuiet()) return '';
  const known = recall('gvid');
  const id = isVisitStyleID(known) ? known : visitStyleID();
  if (isVisitStart || id !== known) {
    remember('gvid', id);
    safely(renewByHTTP)(id);
  }
  return id;
}

/**
 * Renews the cookie by HTTP, when the gateway is under its domain: Safari keeps cookies of scripts for a week only.
 * @param {string} id
 */
function renewByHTTP(id) {
  if (('.' + new URL(endpoint(), location.href).hostname).endsWith('.' + domain)) {
    navigator.sendBeacon(endpoint() + '/cookie?global=' + GLOBAL + '&domain=' + domain + '&id=' + id);
  }
}
