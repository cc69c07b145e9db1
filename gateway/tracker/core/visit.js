// Visit: the ids of browser and visit, and the clock of the visit.

const IDLE_MS = +'IDLE_MINUTES' * 60 * 1000;
const YEAR_S = 365 * 24 * 60 * 60;

/** A version 4 UUID as 32 lower-case hex digits. */
function randomID() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  // Array.from is another function on pages with Prototype.js.
  return [...bytes].map((byte) => (byte + 256).toString(16).slice(1)).join('');
}

/** An id as events and pages have it. */
function pageStyleID() {
  return randomID().toUpperCase();
}

/** An id as visits and browsers have it. */
function visitStyleID() {
  return randomID().replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** @param {string} id */
function isVisitStyleID(id) {
  return /^[0-9a-f-]{36}$/.test(id);
}

/**
 * The running visit as all tabs know it: its id ('' when there is none) and the last timestamp given out in it, 0 for
 * one that is yet to start.
 */
function readVisit() {
  const [id, last] = recall('vid').split('.');
  return isVisitStyleID(id) ? { id, last: Number(last) || 0 } : { id: '', last: 0 };
}

/** @param {string} id @param {number} last */
function writeVisit(id, last) {
  remember('vid', id + '.' + last);
}

/** Whether so long ago that the visit is over. A clock set back as far ends it too, or its time would stand still. */
function isIdle(/** @type {number} */ time) {
  return Math.abs(Date.now() - time) > IDLE_MS;
}

/**
 * The id of this browser, '' for a quiet visitor.
 * @param {boolean} [isVisitStart] lets it live another year
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
 * A gateway under the domain of the cookies sets it by HTTP as well: Safari keeps what scripts set for a week.
 * @param {string} id
 */
function renewByHTTP(id) {
  if (('.' + new URL(endpoint(), location.href).hostname).endsWith('.' + domain)) {
    navigator.sendBeacon(endpoint() + '/cookie?global=' + GLOBAL + '&domain=' + domain + '&id=' + id);
  }
}
