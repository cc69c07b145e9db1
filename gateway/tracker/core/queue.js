// Queue: the events that the gateway has not confirmed, one storage item each.
// An item is written once and removed once, so that tabs, which may be separate processes, never overwrite each other.
// Its key has all that sorting and limits need: e.<timestamp>.<eventID>.<bytes>.<site>

const MAX_AGE_MS = 7 * 24 * 60 * 60 * 1000;
const MAX_EVENTS = 1000;
const MAX_QUEUE_BYTES = 1000000;
const MAX_EVENT_BYTES = 64000; // an event fits into a request that outlives its page

/** @typedef {{key: string, time: number, bytes: number, site: string}} Item */

/** Keys of the events that this page has raised. @type {Set<string>} */
const own = new Set();

/**
 * Stores an event until it is confirmed, without its data when they are too large.
 * @param {{timestamp: number, eventID: string}} event all but its data
 * @param {string} data
 * @param {string} prefix 'e', or 'x' for one that counts only once the visit has gone idle
 * @returns {string} its key
 */
function keep(event, data, prefix) {
  const text = JSON.stringify(event).slice(0, -1) + ',"data":' + data + '}';
  const bytes = new Blob([text]).size;
  if (bytes > MAX_EVENT_BYTES) {
    debug('data too large', event);
    return keep(event, '{"_dropped":"too large"}', prefix);
  }
  const key = [prefix, event.timestamp, event.eventID, bytes, config.site || ''].join('.');
  put(key, text);
  own.add(key);
  return key;
}

/** @param {string} key */
function discard(key) {
  remove(key);
  own.delete(key);
}

/**
 * Counts events that were dropped; the next batch reports them.
 * @param {number} count negative once reported
 */
function countLost(count) {
  if (count) put('lost', lostCount() + count);
}

function lostCount() {
  return Number(get('lost'));
}

/** The waiting events, oldest first. Drops those that are too old, and the oldest beyond the limits. @returns {Item[]} */
function waiting() {
  let count = 0;
  let total = 0;
  return keys()
    .map((key) => {
      const [prefix, time, , bytes, ...site] = key.split('.');
      return { key, prefix, time: Number(time), bytes: Number(bytes), site: site.join('.') };
    })
    .filter(({ prefix, time }) => prefix === 'e' || (prefix === 'x' && isIdle(time)))
    .sort((a, b) => b.time - a.time)
    .filter(({ key, time, bytes }) => {
      count += 1;
      total += bytes;
      const fits = count <= MAX_EVENTS && total <= MAX_QUEUE_BYTES && Date.now() - time <= MAX_AGE_MS;
      if (!fits && get(key)) {
        discard(key);
        countLost(1);
      }
      return fits;
    })
    .reverse();
}
