// The visitors on the site now, by the list of visitors and the live stream; which of them are shown, and in what order.

import { ask, query } from './api.js';
import { together } from './attention.js';

const PAGE_SIZE = 1000; // the API's largest page
const MOST_KEPT = 10000; // at first; each further page that is asked for makes it more
const MOST_EVER = 50000;
const REFRESH_MS = 300000; // corrects what the live stream has not reported
/** The filter of all who need a look. */
export const ANY = 'any';
const ORDERS = { '': latestFirst, waiting: longestFirst };

export class Visitors {
  /** Calls `changed()` when there is something else to draw. `attention`: the rules of who needs a look. */
  constructor({ changed, attention }) {
    Object.assign(this, { changed, attention });
    this.filter = { site: '', state: '', page: '', sort: '', look: '', bots: '' };
    this.sites = []; // the only websites that are asked for; empty: all
    this.forget();
  }

  /** Forget all visitors. */
  forget() {
    this.known = new Map(); // by visit: the visitor of the API, with the last event
    this.seenSites = new Set();
    this.loading = Promise.resolve();
    this.most = MOST_KEPT;
    this.next = undefined; // the page that follows, if not all are read
    this.counts = undefined; // of the server, while not all are known
    this.late = undefined; // while the list is being read: the messages that arrive meanwhile
    this.isComplete = true; // whether all visitors are known
    this.isRead = false;
    clearTimeout(this.refreshing);
  }

  /** Show other visitors. Of too many to be kept, only those that match are read. Throws a Problem. */
  async show(filter, signal) {
    this.filter = filter;
    this.changed();
    if (!this.isComplete) await this.load(signal);
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
      const { site, state } = this.isComplete ? {} : this.filter;
      const asked = { site: site || this.sites, state, presence: ['PRESENT', 'LEFT'], page_size: PAGE_SIZE };
      const read = [];
      let token = '';
      do {
        const answer = await ask(`/api/v1/visitors${query({ ...asked, page_token: token })}`, { signal });
        read.push(...answer.visitors);
        token = answer.nextPageToken;
      } while (token && read.length < this.most);
      this.next = token && { ...asked, page_token: token };
      const before = this.known;
      this.known = new Map();
      for (const visitor of read) this.take(visitor, before.get(visitor.visitId));
      this.isComplete = !token && !site && !state;
      this.isRead = true;
    } finally {
      const late = this.late;
      this.late = undefined;
      if (!signal.aborted) {
        for (const [kind, data] of late) this.tell(kind, data);
        this.refreshing = setTimeout(() => this.load(signal).catch(() => {}), REFRESH_MS); // the live stream reports errors
      }
    }
    this.changed();
  }

  /** Read the next page, if not all visitors are known. Throws a Problem. */
  async readMore(signal) {
    const asked = this.next;
    if (!asked || this.late || this.known.size >= MOST_EVER) return;
    this.next = undefined;
    let answer;
    try {
      answer = await ask(`/api/v1/visitors${query(asked)}`, { signal });
    } catch (problem) {
      this.next ||= asked;
      throw problem;
    }
    if (signal.aborted || this.late) return;
    this.most = this.known.size + PAGE_SIZE;
    this.next = answer.nextPageToken && { ...asked, page_token: answer.nextPageToken };
    for (const visitor of answer.visitors) this.take(visitor);
    this.isComplete = !this.next && !asked.state && !this.filter.site;
    this.changed();
  }

  /** Take the numbers of visitors that the server has counted. */
  takeCounts(counts) {
    this.counts = counts;
    this.changed();
  }

  /** Take a message of the live stream. */
  tell(kind, data) {
    if (this.late) {
      this.late.push([kind, data]);
      return;
    }
    if (kind === 'transition') this.take(data.visitor);
    else this.takeEvent(data);
    this.changed();
  }

  /** Take a visitor of the API. The title of a page stays known while the visitor is on that page. */
  take(visitor, known = this.known.get(visitor.visitId) || {}) {
    this.seenSites.add(visitor.site);
    if (visitor.presence === 'ENDED' || visitor.staff) {
      this.known.delete(visitor.visitId);
      return;
    }
    if (!known.visitId && this.known.size >= this.most) {
      this.isComplete = false;
      return;
    }
    const title = visitor.title || (visitor.url === known.url ? known.title : null);
    const lastEventTime = Math.max(visitor.lastEventTime, known.lastEventTime || 0);
    const notableEvents = together(known.notableEvents || [], visitor.notableEvents);
    this.known.set(visitor.visitId, { ...known, ...visitor, title, lastEventTime, notableEvents });
  }

  /** Take an event: it is the visitor's last one. Who and where the visitor is, transitions say. */
  takeEvent({ event }) {
    const known = this.known.get(event.visitID);
    const happened = Math.min(event.timestamp, event.serverTimestamp);
    if (!known || happened < known.lastEventTime - 1000) return;
    const notableEvents = this.attention.withEvent(known.notableEvents, event);
    this.known.set(event.visitID, { ...known, lastEventTime: Math.max(happened, known.lastEventTime), eventName: event.eventName, notableEvents });
  }

  /** The websites to choose from. */
  siteNames() {
    return [...new Set([...this.sites, ...this.seenSites, this.filter.site].filter(Boolean))].sort();
  }

  /** The visitors to show, in order: those who are here, then those who have left. Robots are shown alone. */
  shown() {
    const { state, site, look, bots } = this.filter;
    const wanted = folded(this.filter.page);
    const isShown = (visitor) => (
      Boolean(bots) === visitor.bot && (!state || visitor.state === state) && (!site || visitor.site === site)
      && (!wanted || folded(visitor.title || '').includes(wanted) || folded(visitor.url || '').includes(wanted))
      && (!look || this.attention.of(visitor).some(({ name }) => look === ANY || look === name)));
    const compare = ORDERS[this.filter.sort] || latestFirst;
    return [...this.known.values()]
      .filter(isShown)
      .sort((one, other) => isGone(one) - isGone(other) || compare(one, other));
  }

  /**
   * How many are here, by website and state: the chosen website, then the others, most first. Counted here while all
   * visitors are known, so that each change shows immediately; else by the server.
   */
  totals() {
    const isOther = ({ site }) => (site === this.filter.site ? 0 : 1);
    if (!this.isComplete && this.counts) {
      return this.counts.sites
        .filter(({ site }) => !this.sites.length || this.sites.includes(site))
        .map(({ site, here, anonymous, recognized, authenticated }) => ({ site, here, ANONYMOUS: anonymous, RECOGNIZED: recognized, AUTHENTICATED: authenticated }))
        .sort((one, other) => isOther(one) - isOther(other));
    }
    const bySite = new Map();
    for (const visitor of this.known.values()) {
      if (isGone(visitor) || visitor.bot) continue;
      let total = bySite.get(visitor.site);
      if (!total) bySite.set(visitor.site, total = { site: visitor.site, here: 0, ANONYMOUS: 0, RECOGNIZED: 0, AUTHENTICATED: 0 });
      total.here += 1;
      total[visitor.state] += 1;
    }
    return [...bySite.values()].sort((one, other) => isOther(one) - isOther(other) || other.here - one.here || (one.site < other.site ? -1 : 1));
  }

  /** How many are here on websites of which the server does not say it. */
  unnamed() {
    return this.isComplete || !this.counts || this.sites.length ? 0 : this.counts.otherSites.here;
  }

  /** How many people who are here need a look, by rule and together, on the chosen website. */
  needs() {
    const byRule = new Map(this.attention.names.map((name) => [name, 0]));
    let all = 0;
    for (const visitor of this.known.values()) {
      if (this.filter.site && visitor.site !== this.filter.site) continue;
      const met = this.attention.of(visitor);
      for (const { name } of met) byRule.set(name, byRule.get(name) + 1);
      all += met.length ? 1 : 0;
    }
    return { all, byRule };
  }

  /** How many robots are known, on the chosen website. */
  get botCount() {
    let count = 0;
    for (const { bot, site } of this.known.values()) count += bot && (!this.filter.site || site === this.filter.site) ? 1 : 0;
    return count;
  }

  /** Visitors whose identity or page has this text, or whose visit begins with it; those who are here first. */
  find(text, most) {
    const wanted = folded(text);
    const found = [];
    for (const visitor of this.known.values()) {
      const { identityId, visitId } = visitor;
      if ((identityId && folded(identityId).includes(wanted)) || (wanted.length > 3 && visitId.startsWith(wanted))) found.push(visitor);
    }
    return found.sort((one, other) => isGone(one) - isGone(other) || latestFirst(one, other)).slice(0, most);
  }
}

/** Whether a visitor has left all pages. */
export function isGone({ presence }) {
  return presence === 'LEFT' ? 1 : 0;
}

/** A text without case and accents. */
export function folded(text) {
  return text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();
}

function latestFirst(one, other) {
  return other.lastEventTime - one.lastEventTime;
}

/** Who has been on the page for the longest time first; last, those of whom it is not known. */
function longestFirst(one, other) {
  return (one.pageEnterTime || Number.MAX_VALUE) - (other.pageEnterTime || Number.MAX_VALUE) || latestFirst(one, other);
}
