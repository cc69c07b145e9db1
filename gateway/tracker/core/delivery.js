// Delivery: sends waiting events to the gateway in batches, until it confirms them.

const BATCH_AFTER_EVENTS = 20;
const BATCH_AFTER_MS = 2000;
const MAX_BATCH_EVENTS = 100;
// Browsers allow 64 KiB of requests that outlive their page.
const KEEPALIVE_BYTES = 64 * 1024;
// Maximum size of a request without its events.
const HEAD_BYTES = 500;
const ANSWER_TIMEOUT_MS = 15000;
const LEASE_MS = 20000;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 60000;
const MAX_RETRY_AFTER_MS = 600000;

/** Status, body and Retry-After of the gateway's response. @typedef {[number, string, string|null]} Answer */

const tab = Math.random().toString(36).slice(2);

/** Missing on http: pages; refused in sandboxed frames. @type {LockManager|undefined} */
let locks = navigator.locks;

/** Keys of the events in requests of this page. @type {Set<string>} */
const underway = new Set();
let bytesUnderway = 0;
let batchLimit = MAX_BATCH_EVENTS;
let failures = 0;
/** Whether to send by XMLHttpRequest. Changes after each request without a response: a page may have broken one way. */
let byXHR = false;
let unsent = 0;
let flushing = false;
let flushAgain = false;
/** @type {number|undefined} */
let timer;
let due = Infinity;

/** Flushes after `delay` at the latest. @param {number} delay milliseconds */
function schedule(delay) {
  if (Date.now() + delay >= due) return;
  clearTimeout(timer);
  due = Date.now() + delay;
  timer = setTimeout(flush, delay);
}

/** Counts a new event, and schedules its batch. @param {boolean} urgent */
function noteEvent(urgent) {
  unsent += 1;
  if (urgent || unsent >= BATCH_AFTER_EVENTS) flush();
  else schedule(BATCH_AFTER_MS);
}

/** Sends one batch as soon as no other tab is sending, and continues while events wait. */
function flush() {
  clearTimeout(timer);
  due = Infinity;
  unsent = 0;
  flushAgain = flushing;
  if (flushing) return;
  flushing = true;
  alone(sendBatch)
    .catch(debug)
    .then((pause) => {
      flushing = false;
      if (flushAgain) schedule(0);
      else if (pause !== undefined) schedule(Number(pause));
    });
}

/**
 * Runs the task while no other tab of this site runs it.
 * @param {() => Promise<number|undefined>} task
 * @returns {Promise<number|undefined|void>}
 */
function alone(task) {
  if (locks) return /** @type {Promise<any>} */ (locks.request(GLOBAL, task));
  const [holder, until] = (get('lease') || '').split('.');
  if (holder && holder !== tab && Number(until) > Date.now()) return Promise.resolve(FIRST_PAUSE_MS);
  put('lease', tab + '.' + (Date.now() + LEASE_MS));
  // Another tab may have written at the same time: then the later one holds the lease.
  return aMoment().then(() => (holdsLease() ? task().finally(endLease) : FIRST_PAUSE_MS));
}

/** A delay after which other tabs see what this one has written. */
function aMoment() {
  return new Promise((resolve) => setTimeout(resolve, 50));
}

function holdsLease() {
  return (get('lease') || '').startsWith(tab);
}

function endLease() {
  if (holdsLease()) remove('lease');
}

/** @returns {Promise<number|undefined>} milliseconds until the next batch, undefined when nothing is left */
async function sendBatch() {
  const pause = Math.min(Number(get('pause')) - Date.now(), MAX_RETRY_AFTER_MS);
  const batch = batchOf(waiting().filter(({ key }) => !underway.has(key)), KEEPALIVE_BYTES);
  if (!batch.length) return undefined;
  return pause > 0 ? pause : post(batch);
}

/** The oldest events that fit into one request. @param {Item[]} items @param {number} bytes */
function batchOf(items, bytes) {
  let room = bytes - HEAD_BYTES;
  return items
    .filter(({ site }) => site === items[0].site)
    .slice(0, batchLimit)
    .filter((item) => (room -= item.bytes + 1) >= 0)
    .map((item) => ({ ...item, text: get(item.key) }))
    .filter(({ text }) => text);
}

/**
 * Sends these events, and removes from the queue those that the gateway confirms.
 * @param {(Item & {text: string|null})[]} items of one site
 * @returns {Promise<number>} milliseconds until the next request
 */
async function post(items) {
  const lost = lostCount();
  const head = JSON.stringify({ sentAt: Date.now(), site: items[0].site || undefined, dropped: lost || undefined });
  const body = head.slice(0, -1) + ',"events":[' + items.map(({ text }) => text).join() + ']}';
  let bytes = HEAD_BYTES;
  items.forEach((item) => {
    bytes += item.bytes + 1;
    underway.add(item.key);
  });
  bytesUnderway += bytes;
  try {
    return await settle(items, lost, await request(body));
  } catch (error) {
    debug(error);
    return backOff(null);
  } finally {
    items.forEach(({ key }) => underway.delete(key));
    bytesUnderway -= bytes;
  }
}

/** @param {string} body @returns {Promise<Answer>} rejected without a response in time */
function request(body) {
  return new Promise((resolve, reject) => {
    const url = endpoint() + '/beacon';
    setTimeout(reject, ANSWER_TIMEOUT_MS, 'the gateway does not answer');
    // Only `fetch` outlives its page.
    if (byXHR && !page.isGone) {
      const xhr = new XMLHttpRequest();
      xhr.onloadend = () => resolve([xhr.status, xhr.responseText, xhr.getResponseHeader('Retry-After')]);
      xhr.open('POST', url);
      xhr.timeout = ANSWER_TIMEOUT_MS;
      xhr.send(body);
      return;
    }
    const abort = new AbortController();
    setTimeout(() => abort.abort(), ANSWER_TIMEOUT_MS);
    fetch(url, { method: 'POST', body, keepalive: bytesUnderway <= KEEPALIVE_BYTES, signal: abort.signal })
      .then(async (response) => resolve([response.status, await response.text(), response.headers.get('Retry-After')]))
      .catch(reject);
  });
}

/**
 * Removes from the queue the events that are stored or permanently rejected.
 * @param {Item[]} items
 * @param {number} lost how many lost events the request has reported
 * @param {Answer} answer
 * @returns {number} milliseconds until the next request
 */
function settle(items, lost, [status, text, after]) {
  debug(status, text);
  const isAnswer = status === 200 || status === 400;
  /** @type {{accepted?: number, rejected?: {index: number, retry?: boolean}[]}} */
  const { accepted = 0, rejected = [] } =
    status === 204 ? { accepted: items.length } : isAnswer ? JSON.parse(text) : {};
  if (accepted + rejected.length === items.length) {
    const again = rejected.filter(({ retry }) => retry).map(({ index }) => index);
    items.forEach(({ key }, index) => again.includes(index) || discard(key));
    countLost(rejected.length - again.length - lost);
    if (again.length) return backOff(after);
    batchLimit = MAX_BATCH_EVENTS;
    failures = 0;
    remove('pause');
  } else if (status !== 413 && status !== 400) return backOff(after);
  else if (items.length > 1) batchLimit = items.length >> 1; // one of them is too much for the gateway: find it
  else {
    discard(items[0].key);
    countLost(1);
  }
  return 0;
}

/**
 * Pauses delivery in all tabs, longer each time, and at least for the gateway's Retry-After.
 * @param {string|null} after seconds
 */
function backOff(after) {
  if (!after) byXHR = !byXHR;
  const growing = Math.min(FIRST_PAUSE_MS * 2 ** failures, MAX_PAUSE_MS) * (0.5 + Math.random() / 2);
  const pause = Math.max(Math.min(Number(after) * 1000 || 0, MAX_RETRY_AFTER_MS), growing);
  failures += 1;
  if (isStarted) put('pause', Date.now() + pause);
  return pause;
}

/** Sends without waiting for the end of the pause. */
function flushAtOnce() {
  failures = 0;
  remove('pause');
  flush();
}

/** Sends the events of a page that is closing, without waiting for other tabs. The next page resends unconfirmed ones. */
function flushNow() {
  const items = waiting().filter(({ key }) => own.has(key) && !underway.has(key));
  const batch = batchOf(items, KEEPALIVE_BYTES - bytesUnderway);
  if (batch.length) post(batch);
}
