// Pages: the system events VisitStarted, PageEntered and PageExited.

// Single-page applications set the new title a little after the new address.
const TITLE_DELAY_MS = 250;

const IDENTITY_EVENTS = ['SignIn', 'SignOut', 'UserInfo'];
const SYSTEM_EVENTS = ['VisitStarted', 'PageEntered', 'PageExited', ...IDENTITY_EVENTS];

/** The page entry that events belong to. */
const page = {
  visitID: '',
  id: '',
  url: '',
  address: '',
  referrer: document.referrer,
  /** Timestamps of its PageEntered and of its latest event. */
  entered: 0,
  last: 0,
  /** Between PageEntered and PageExited. */
  isOpen: false,
  /** The document is going away: nothing is entered any more. */
  isGone: false,
  /** Since when the tab is hidden, and the key of the PageExited that counts if it never comes back. */
  hiddenAt: 0,
  hiddenExit: '',
};

/** The part of the address that identifies a page; constant when the page turns `historyRouting` off. */
function address() {
  if (config.historyRouting === false) return '';
  return config.hashRouting ? location.href : location.href.split('#')[0];
}

/**
 * The next timestamp of the page's visit, later than all others.
 * @param {number} at when it happened; 0: directly after the last event
 */
function stamp(at) {
  const visit = readVisit();
  const isRunning = visit.id === page.visitID;
  page.last = Math.max(at, page.last + 1, isRunning ? visit.last + 1 : 0);
  if (isRunning && !isIdle(visit.last)) writeVisit(visit.id, page.last);
  return page.last;
}

/**
 * Puts an event of the current page into the queue.
 * @param {string} eventName
 * @param {object} data
 * @param {number} [timestamp]
 * @param {string} [prefix] of its key in the queue
 */
function write(eventName, data, timestamp = stamp(Date.now()), prefix = 'e') {
  const event = {
    eventType: SYSTEM_EVENTS.includes(eventName) ? 'SYSTEM' : 'BUSINESS',
    eventName: eventName.slice(0, 256),
    eventID: pageStyleID(),
    pageID: page.id,
    timestamp,
    category: '',
    url: page.url.slice(0, 8192),
    languageCode: String(config.languageCode || '').slice(0, 64),
    globalVisitID: globalVisitID(),
    visitID: page.visitID,
  };
  debug(event, data);
  const key = keep(event, dataText(data), prefix);
  noteEvent(IDENTITY_EVENTS.includes(eventName));
  return key;
}

/** Makes sure that there is a visit and that this page has been entered in it. */
function ensurePage() {
  const visit = readVisit();
  const isNew = isIdle(visit.last);
  if (page.isGone || (page.isOpen && !isNew && visit.id === page.visitID)) return;
  // The visit ended under the page, by time, by another tab or by deleted cookies.
  leavePage(0);
  page.isOpen = true;
  page.last = 0;
  page.visitID = (isNew && visit.last ? '' : visit.id) || visitStyleID();
  page.id = pageStyleID();
  page.url = location.href;
  page.address = address();
  if (isNew) {
    writeVisit(page.visitID, Date.now() - 1);
    globalVisitID(true);
    write('VisitStarted', {
      timezoneOffset: new Date().getTimezoneOffset(),
      screenResolution: screen.width + 'x' + screen.height,
      language: navigator.language,
    });
  }
  page.entered = stamp(Date.now());
  write('PageEntered', { title: document.title, referrer: page.referrer }, page.entered);
}

/** @param {number} at when; 0: when the visit ended */
function leavePage(at) {
  if (!page.isOpen) return;
  // When the visit has ended while the page was hidden, the PageExited of the time of hiding counts.
  if (!page.hiddenExit || !isIdle(page.hiddenAt)) {
    cameBack();
    writeExit(at, 'e');
  }
  page.hiddenExit = '';
  page.isOpen = false;
}

/** @param {number} at @param {string} prefix */
function writeExit(at, prefix) {
  const timestamp = stamp(at);
  return write('PageExited', { duration: Math.floor((timestamp - page.entered) / 1000) }, timestamp, prefix);
}

/** A hidden tab may be killed without an event, so its PageExited is stored beforehand. */
function wentAway() {
  if (!page.isOpen || page.hiddenExit) return;
  page.hiddenAt = Date.now();
  page.hiddenExit = writeExit(page.hiddenAt, 'x');
}

function cameBack() {
  discard(page.hiddenExit);
  page.hiddenExit = '';
}

function onVisibility() {
  if (document.visibilityState === 'hidden') {
    wentAway();
    flushNow();
    return;
  }
  if (page.hiddenExit && isIdle(page.hiddenAt)) leavePage(0);
  else cameBack();
  ensurePage();
  flush();
}

/** The address may have changed without a new document. */
function onNavigation() {
  if (!page.isOpen || address() === page.address) return;
  leavePage(Date.now());
  page.referrer = page.url;
  setTimeout(whenStarted(ensurePage), TITLE_DELAY_MS);
}

function onPageHide() {
  if (!page.isOpen) ensurePage();
  leavePage(Date.now());
  page.isGone = true;
  flushNow();
  endLease();
}

/** The document is shown again from the back-forward cache, which is a new page entry. */
function onPageShow() {
  if (!page.isGone) return;
  page.isGone = false;
  page.referrer = document.referrer;
  ensurePage();
}

/** Raises Heartbeat while the visitor looks at the page, unless the visit has ended, as while a computer slept. */
function beat() {
  if (page.isOpen && document.hasFocus() && !isIdle(readVisit().last)) write('Heartbeat', {});
}

/** @param {() => void} act */
function whenStarted(act) {
  return safely(() => isStarted && act());
}

function watchPage() {
  /** @type {('pushState'|'replaceState')[]} */ (['pushState', 'replaceState']).forEach((name) => {
    const original = history[name];
    history[name] = function (...args) {
      const result = original.apply(this, args);
      whenStarted(onNavigation)();
      return result;
    };
  });
  ['popstate', 'hashchange'].forEach((name) => addEventListener(name, whenStarted(onNavigation)));
  addEventListener('pageshow', whenStarted(onPageShow));
  addEventListener('online', whenStarted(flushAtOnce));
  document.addEventListener('visibilitychange', whenStarted(onVisibility));
}
