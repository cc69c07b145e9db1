// The rows of the visitors on the site now, from the list of visitors and the live stream.

import { ask, query } from './api.js';
import { ago, badge, element, place, shortened } from './dom.js';

const MOST_LISTED = 200;
const REFRESH_MS = 60000; // visits end, and contacts are linked, without an event
const IDLE_MS = 1800000; // the default of VISIT_IDLE_MINUTES; each refresh corrects the list
const DRAW_MS = 500; // changes within this time are drawn together

const calm = matchMedia('(prefers-reduced-motion: reduce)');

export class Visitors {
  /** Calls `open(visitId)` for the visit that the user chooses, and `sites(names)` when a new website appears. */
  constructor({ rows, count, empty, open, sites }) {
    Object.assign(this, { rows, count, empty, open, tellSites: sites });
    this.filter = { site: '', state: '' };
    this.known = new Map(); // by visit: the visitor of the API, with the last page and event
    this.drawn = new Map(); // by visit: its row, and the values it shows
    this.sites = new Set();
    this.loading = Promise.resolve();
    this.late = undefined; // while the list is being read: the messages that arrive meanwhile
    this.hasMore = false;
    rows.addEventListener('keydown', (event) => this.move(event));
    setInterval(() => this.draw(), 10000); // updates "ago"
  }

  /** Read the list, after a read in progress, and periodically until `signal` is aborted. Throws a Problem. */
  load(signal) {
    this.loading = this.loading.catch(() => {}).then(() => this.read(signal));
    return this.loading;
  }

  async read(signal) {
    clearTimeout(this.refreshing);
    if (signal.aborted) return;
    this.late = [];
    try {
      const { state, site } = this.filter;
      const answer = await ask(`/api/v1/visitors${query({ state, site, page_size: MOST_LISTED })}`, { signal });
      const before = this.known;
      this.known = new Map();
      for (const visitor of answer.visitors) this.take(visitor, before.get(visitor.visitId));
      this.hasMore = Boolean(answer.nextPageToken);
    } finally {
      const late = this.late;
      this.late = undefined;
      if (!signal.aborted) {
        for (const [kind, data] of late) this.tell(kind, data);
        this.refreshing = setTimeout(() => this.load(signal).catch(() => {}), REFRESH_MS); // the live stream reports errors
      }
    }
    this.draw();
  }

  /** Remove all visitors. */
  forget() {
    this.known.clear();
    this.sites.clear();
    this.tellSites([]);
    this.draw();
  }

  /** Take a message of the live stream. */
  tell(kind, data) {
    if (this.late) {
      this.late.push([kind, data]);
      return;
    }
    if (kind === 'transition') this.take(data.visitor);
    else this.takeEvent(data);
    this.drawing ||= setTimeout(() => this.draw(), DRAW_MS);
  }

  /** Merge a visitor of the API with the known values. */
  take(visitor, known = this.known.get(visitor.visitId) || {}) {
    const lastEventTime = Math.max(visitor.lastEventTime, known.lastEventTime || 0);
    const isNewer = visitor.lastEventTime >= (known.lastEventTime || 0);
    const page = visitor.url && isNewer ? { url: visitor.url, title: visitor.title } : known.page;
    this.known.set(visitor.visitId, { ...known, ...visitor, lastEventTime, page });
  }

  takeEvent({ site, event, visitor }) {
    const visitId = event.visitID;
    const happened = Math.min(event.timestamp, event.serverTimestamp);
    if (!this.known.has(visitId)) {
      if (happened < Date.now() - IDLE_MS) return;
      this.known.set(visitId, { visitId, site, contactId: null, ...visitor, lastEventTime: 0 });
    }
    const known = this.known.get(visitId);
    if (happened < known.lastEventTime - 1000) return; // a late event does not change the current page
    Object.assign(known, { lastEventTime: Math.max(happened, known.lastEventTime), eventName: event.eventName });
    if (event.url) {
      const isSame = known.page && known.page.url === event.url;
      const title = event.eventName === 'PageEntered' ? event.data && event.data.title : isSame && known.page.title;
      known.page = { url: event.url, title };
    }
  }

  draw() {
    clearTimeout(this.drawing);
    this.drawing = undefined;
    const wanted = [...this.known.values()]
      .filter(({ state, site }) => (!this.filter.state || state === this.filter.state) && (!this.filter.site || site === this.filter.site))
      .sort((one, other) => other.lastEventTime - one.lastEventTime);
    for (const left of wanted.splice(MOST_LISTED)) {
      this.known.delete(left.visitId);
      this.hasMore = true;
    }
    for (const visitId of [...this.drawn.keys()].filter((id) => !wanted.some((one) => one.visitId === id))) {
      this.drawn.get(visitId).row.remove();
      this.drawn.delete(visitId);
    }
    const rows = wanted.map((visitor) => this.row(visitor));
    // While the user points at a row or has it in focus, rows keep their places.
    const isHeld = this.rows.matches(':hover, :focus-within');
    const present = new Set(this.rows.children);
    if (!isHeld) this.arrange(rows);
    else this.rows.prepend(...rows.filter((row) => !present.has(row)));
    this.count.textContent = this.hasMore ? `the latest ${wanted.length} of more` : wanted.length;
    this.empty.hidden = wanted.length > 0;
    this.noteSites(wanted);
  }

  /** Put rows in order. Only rows in a wrong place are moved, so that the others keep hover and focus. */
  arrange(rows) {
    rows.forEach((row, place) => {
      if (this.rows.children[place] !== row) this.rows.insertBefore(row, this.rows.children[place] || null);
    });
  }

  noteSites(visitors) {
    const before = this.sites.size;
    for (const { site } of visitors) this.sites.add(site);
    if (this.sites.size > before) this.tellSites([...this.sites].sort());
  }

  row(visitor) {
    const shown = JSON.stringify([visitor, ago(visitor.lastEventTime), visitor.visitId === this.chosen]);
    let drawn = this.drawn.get(visitor.visitId);
    if (!drawn) {
      const button = element('button', { class: 'who' });
      const row = element('tr', { onclick: () => this.open(visitor.visitId) });
      drawn = { row, button };
      this.drawn.set(visitor.visitId, drawn);
    }
    if (drawn.shown === shown) return drawn.row;
    const { state, identityId, contactId, site, page, eventName, lastEventTime, visitId } = visitor;
    const isNews = drawn.shown !== undefined && drawn.news !== `${state} ${eventName} ${lastEventTime}`;
    Object.assign(drawn, { shown, news: `${state} ${eventName} ${lastEventTime}` });
    drawn.row.classList.toggle('chosen', visitId === this.chosen);
    drawn.button.setAttribute('aria-expanded', String(visitId === this.chosen));
    // The button stays the same element, because it may have the focus.
    const who = identityId ? element('span', { title: identityId }, identityId) : element('span', { class: 'soft' }, 'Visitor');
    drawn.button.replaceChildren(who, shortened(visitId));
    const cells = [
      element('td', {}, badge(state)),
      drawn.button.closest('th') || element('th', { scope: 'row' }, drawn.button),
      element('td', { class: 'of-contact', title: contactId || '' }, contactId || none()),
      element('td', { class: 'of-site', title: site }, site),
      element('td', { class: 'of-page', title: page ? page.url : '' }, page ? String(page.title || place(page.url)) : none()),
      element('td', { class: 'of-last' }, eventName || '', element('span', { class: 'soft' }, ` ${ago(lastEventTime)}`)),
    ];
    cells.forEach((cell, number) => {
      const old = drawn.row.children[number];
      if (!old) drawn.row.append(cell);
      else if (old !== cell) old.replaceWith(cell);
    });
    if (isNews && !calm.matches) drawn.row.animate([{ backgroundColor: 'var(--news)' }, {}], 1500);
    return drawn.row;
  }

  /** Mark the open visit; without an id mark none. */
  choose(visitId) {
    this.chosen = visitId;
    this.draw();
  }

  /** Focus the row of a visit, if it is still in the list. */
  focus(visitId) {
    const drawn = this.drawn.get(visitId);
    if (drawn) drawn.button.focus();
  }

  /** Move the focus between rows with the arrow keys. */
  move(event) {
    const step = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
    const row = step && event.target.closest('tr')[step];
    if (!row) return;
    event.preventDefault();
    row.querySelector('button').focus();
  }
}

/** The content of an empty cell. */
function none() {
  return element('span', { class: 'soft' }, '–');
}
