// What a visitor did: pages with the time spent on them, the events of each page with their values, who was signed in,
// and what the contact center did. The newest page is on top. New events are added; nothing else is drawn again.

import { element, moment, place, seen, span } from './dom.js';
import { arrange, patch } from './patch.js';
import { counted, figure, locale, parts, t } from './text.js';

const DRAW_MS = 100; // changes within this time are drawn together
const FAST_MS = 10000; // pages that are left sooner, RUN of them in a row, are shown as one line
const RUN = 8;
const TOO_FAST_MS = 2000; // a page, on average of a run: no person reads like that
const REPEATS = 5; // events of one name in a row are shown as one line
const MOST_KEPT = 20000; // events; then the first ones are forgotten
const MOST_ENTRIES = 60; // that are drawn, and more each time that they are asked for
const MOST_EVENTS = 50; // of a page, likewise
const MOST_VALUES = 4;
const MOST_LETTERS = 80; // of a value in a line; all of it is in the data
const SYSTEM = new Set(['VisitStarted', 'PageEntered', 'PageExited', 'SignIn', 'SignOut', 'UserInfo']);
const NAMES_A_PERSON = new Set(['SignIn', 'SignOut', 'UserInfo']);
const MONEY = new Set(['total', 'price', 'value', 'amount']);
/** What an interaction is called, by its channel. */
export const CHANNELS = {
  VOICE: t('Call'), CHAT: t('Chat'), EMAIL: t('E-mail'), CALLBACK: t('Callback'), MESSAGE: t('Message'), COBROWSE: t('Co-browsing'), OTHER: t('Interaction'),
};

export class Journey {
  /** `scroller`: the element that scrolls the journey. `most`: entries that are drawn at first. */
  constructor(scroller, most = MOST_ENTRIES) {
    this.scroller = scroller;
    this.events = new Map(); // by id, as the History API gives them
    this.steps = new Map(); // by event id: the transition that it is the evidence of
    this.interactions = [];
    this.visitor = undefined;
    this.drawn = new Map(); // by key: the element of an entry, and what it shows
    this.search = element('input', { type: 'search', name: 'find', autocomplete: 'off', placeholder: t('find') });
    this.found = element('output', { class: 'soft', role: 'status' });
    this.news = element('button', { type: 'button', class: 'news', hidden: true, onclick: () => this.showNews() });
    this.tools = element('form', { class: 'tools', onsubmit: (event) => event.preventDefault() },
      element('h3', {}, t('Journey')),
      element('fieldset', {}, element('legend', { class: 'unseen' }, t('Pages by')),
        element('label', {}, element('input', { type: 'radio', name: 'by', value: 'title', checked: true }), element('span', {}, t('Titles'))),
        element('label', {}, element('input', { type: 'radio', name: 'by', value: 'url' }), element('span', {}, t('URLs')))),
      element('label', {}, element('input', { type: 'checkbox', name: 'business', checked: true }), ' ', t('business')),
      element('label', {}, element('input', { type: 'checkbox', name: 'system' }), ' ', t('system')),
      element('label', { class: 'search' }, element('span', { class: 'unseen' }, t('Find in the journey')), this.search),
      this.found);
    this.list = element('ol', { class: 'entries' });
    this.more = element('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => this.showMore() });
    this.most = most;
    this.mostOf = new Map(); // by page: how many of its events are drawn
    this.root = element('section', { class: 'journey', 'aria-label': t('Journey') }, this.tools, this.news, this.list, this.more);
    this.list.addEventListener('click', ({ target }) => this.showEarlier(target.closest('[data-page]')));
    this.tools.addEventListener('input', () => this.draw());
    this.list.addEventListener('toggle', (event) => this.fill(event.target), true); // it does not bubble
    scroller.addEventListener('scroll', () => {
      if (this.isOnTop) this.news.hidden = true;
    });
  }

  /** Add events; those that are here already stay. `isNews`: they have just happened. */
  add(events, isNews = false) {
    const before = this.events.size;
    for (const event of events) {
      if (!this.events.has(event.eventID)) this.events.set(event.eventID, event);
    }
    const count = this.events.size - before;
    if (!count) return;
    for (const id of this.events.keys()) {
      if (this.events.size <= MOST_KEPT) break;
      this.events.delete(id);
    }
    this.ordered = undefined;
    if (isNews && !this.isOnTop) {
      this.newCount = (this.news.hidden ? 0 : this.newCount) + count;
      this.news.textContent = t('{count} new', { count: figure(this.newCount) }) + ' ↑';
      this.news.hidden = false;
    }
    this.drawSoon();
  }

  explain(transitions) {
    this.steps = new Map(transitions.map((step) => [step.evidence[0].eventId, step]));
    this.drawSoon();
  }

  report(interactions) {
    this.interactions = interactions;
    this.drawSoon();
  }

  /** The live state, which says which page is open now. */
  follow(visitor) {
    this.visitor = visitor;
    this.drawSoon();
  }

  get isOnTop() {
    return this.scroller.scrollTop <= this.root.offsetTop;
  }

  showNews() {
    this.news.hidden = true;
    this.root.scrollIntoView();
    this.search.focus({ preventScroll: true });
  }

  showMore() {
    this.most += MOST_ENTRIES;
    this.draw();
  }

  /** Show more events of a page. */
  showEarlier(button) {
    if (!button) return;
    const { page } = button.dataset;
    this.mostOf.set(page, (this.mostOf.get(page) || MOST_EVENTS) + MOST_EVENTS);
    this.draw();
  }

  drawSoon() {
    this.drawing ||= setTimeout(() => this.draw(), DRAW_MS);
  }

  /** Draw what has changed, with what has become longer since. */
  draw() {
    clearTimeout(this.drawing);
    this.drawing = undefined;
    const { by, business, system } = this.tools.elements;
    const wanted = { text: folded(this.search.value.trim()), business: business.checked, system: system.checked };
    this.list.classList.toggle('by-url', by.value === 'url');
    const { pages, people } = this.model();
    this.people = people;
    const entries = [...pages, ...this.interactions.map(entryOf)].sort((one, other) => other.start - one.start);
    const shown = entries.map((entry) => narrowed(entry, wanted)).filter(Boolean);
    const used = new Set();
    const item = (entry) => this.item(entry, used);
    const all = wanted.text ? shown : runsOf(shown);
    arrange(this.list, all.slice(0, this.most).map((entry) => (entry.pages ? this.run(entry, item, used) : item(entry))));
    this.more.hidden = all.length <= this.most;
    this.more.textContent = t('{count} earlier', { count: figure(all.length - this.most) });
    for (const key of [...this.drawn.keys()].filter((one) => !used.has(one))) this.drawn.delete(key);
    this.found.textContent = wanted.text ? t('{count} of {total}', { count: figure(shown.length), total: figure(entries.length) }) : '';
  }

  /** The page entries with their events, and the people in the order in which they were named. */
  model() {
    this.ordered ||= [...this.events.values()].map((event, number) => ({ event, number, at: Math.min(event.timestamp, event.serverTimestamp) }))
      .sort((one, other) => one.at - other.at || one.number - other.number);
    const pages = new Map();
    const people = [];
    let who = '';
    let last;
    for (const { event, at } of this.ordered) {
      const step = this.steps.get(event.eventID);
      if (step) who = step.after.identityId || '';
      if (who && !people.includes(who)) people.push(who);
      const key = event.pageID || (last && last.isNowhere ? last.key : `nowhere-${event.eventID}`);
      let page = pages.get(key);
      if (!page) {
        page = { key, start: at, begun: event.timestamp, isNowhere: !event.pageID, url: '', title: '', events: [] };
        pages.set(key, page);
      }
      last = page;
      if (event.eventName === 'PageEntered') Object.assign(page, { entered: event, left: undefined, title: text(event.data.title) });
      if (event.eventName === 'PageExited') page.left = event;
      page.url ||= event.url || '';
      page.events.push({ event, at, step, person: people.indexOf(who) });
    }
    const ordered = [...pages.values()];
    const open = this.visitor && this.visitor.presence === 'PRESENT'
      ? ordered.findLast(({ entered, left, url }) => entered && !left && url === this.visitor.url) : undefined;
    let next;
    for (const page of ordered.toReversed()) {
      page.person = page.events.at(-1).person;
      page.isOpen = page === open;
      page.spent = page.left ? page.left.timestamp - page.begun : page.isOpen || !next ? undefined : next.start - page.start;
      page.stay = page.isOpen ? t('still here, {time}', { time: span(Date.now() - (this.visitor.pageEnterTime || page.start)) }) : page.left ? span(page.spent) : '';
      if (page.entered) next = page;
    }
    return { pages: ordered, people };
  }

  item(entry, used) {
    used.add(entry.key);
    const isMany = this.people.length > 1;
    const most = this.mostOf.get(entry.key) || MOST_EVENTS;
    const shows = entry.report ? JSON.stringify(entry.report)
      : JSON.stringify([entry.title, entry.url, entry.stay, isMany, entry.person, most, entry.shown.map(({ event, step, person }) => [event.eventID, step, person])]);
    const before = this.drawn.get(entry.key);
    if (before && before.shows === shows) return before.item;
    const made = entry.report ? reportItem(entry) : pageItem(entry, isMany, most);
    if (before) patch(before.item, made);
    const item = before ? before.item : made;
    this.drawn.set(entry.key, { item, shows });
    return item;
  }

  /** Many pages in a row, behind one line; they are drawn when it is opened. */
  run({ key, pages }, item, used) {
    used.add(key);
    const length = pages[0].start - pages.at(-1).start;
    const isTooFast = length / pages.length < TOO_FAST_MS;
    const many = t('{count} pages in {time}', { count: figure(pages.length), time: span(length) });
    const words = isTooFast ? t('{pages}, too fast for a person', { pages: many }) : many;
    const line = element('summary', {}, moment(pages.at(-1).start), ' ', words);
    let drawn = this.drawn.get(key);
    if (!drawn) {
      const list = element('ol', { class: 'entries' });
      drawn = { list, details: element('details', {}, line, list) };
      drawn.item = element('li', { class: 'run' }, drawn.details);
      this.drawn.set(key, drawn);
    }
    patch(drawn.details.firstChild, line);
    const shown = drawn.details.open ? pages.slice(0, this.most) : [];
    const rest = shown.length && pages.length > shown.length ? [element('li', { class: 'soft' }, t('and {count} earlier', { count: figure(pages.length - shown.length) }))] : [];
    arrange(drawn.list, [...shown.map(item), ...rest]);
    return drawn.item;
  }

  /** Write all data of an event when they are opened. */
  fill(details) {
    const { all } = details.dataset;
    if (details.parentElement.matches('.run')) this.drawSoon();
    if (!all || !details.open || details.childElementCount > 1) return;
    const event = this.events.get(all);
    const report = this.interactions.find(({ interactionId }) => `report-${interactionId}` === all);
    details.append(element('pre', {}, JSON.stringify(event || report, null, 2)));
  }
}

function text(value) {
  return typeof value === 'string' ? value : value === undefined || value === null ? '' : JSON.stringify(value);
}

function entryOf(report) {
  return { key: `report-${report.interactionId}`, start: report.startTime, report };
}

/** Letters without case and accents. */
export function folded(value) {
  return value.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase().replaceAll('ß', 'ss').replaceAll('ø', 'o');
}

/** An entry with the events that are wanted; undefined: nothing of it is. */
function narrowed(entry, wanted) {
  if (entry.report) return !wanted.text || folded(JSON.stringify(entry.report)).includes(wanted.text) ? entry : undefined;
  let events = entry.events.filter(({ event }) => NAMES_A_PERSON.has(event.eventName) || (SYSTEM.has(event.eventName) ? wanted.system : wanted.business));
  const isNamed = folded(`${entry.title} ${entry.url}`).includes(wanted.text);
  if (!isNamed) {
    events = events.filter(({ event }) => folded(`${event.eventName} ${JSON.stringify(event.data)}`).includes(wanted.text));
  }
  if (!isNamed && !events.length) return undefined;
  if (entry.isNowhere && !events.length) return undefined;
  return { ...entry, shown: events };
}

/** The entries, newest first, with RUN pages and more that were left quickly, without events of their own, as one. */
function runsOf(entries) {
  const made = [];
  let quick = [];
  const close = () => {
    if (quick.length >= RUN) made.push({ key: `run-${quick.at(-1).key}`, pages: quick });
    else made.push(...quick);
    quick = [];
  };
  for (const entry of entries) {
    if (!entry.report && !entry.isOpen && !entry.shown.length && entry.spent !== undefined && entry.spent < FAST_MS) quick.push(entry);
    else {
      close();
      made.push(entry);
    }
  }
  close();
  return made;
}

function pageItem({ key, start, title, url, stay, isOpen, isNowhere, entered, events, shown, person }, isMany, most) {
  const where = place(url);
  const line = element('p', { class: 'line' },
    moment(start), ' ',
    isNowhere ? element('span', { class: 'soft' }, t('without a page')) : element('span', { class: 'what', title: url },
      element('span', { class: 'title' }, title || where || t('a page without address')),
      element('span', { class: 'url' }, url || title)),
    ' ', element('span', { class: isOpen ? 'stay open' : 'stay' }, stay),
    isNowhere ? '' : allOf((entered || events[0].event).eventID, t('All data of this page')));
  return element('li', { class: 'page', 'data-key': key, 'data-person': isMany && person >= 0 ? person % 5 : undefined }, line,
    shown.length ? element('ol', { class: 'events' },
      shown.length > most ? element('li', { 'data-key': 'earlier' }, element('button', { type: 'button', class: 'quiet', 'data-page': key }, t('{count} earlier', { count: figure(shown.length - most) }))) : '',
      repeatsOf(shown.slice(-most)).map((one) => (one.length < REPEATS ? one.map(eventItem) : repeatItem(one)))) : '');
}

/** Events of one name in a row, together. */
function repeatsOf(shown) {
  const made = [];
  for (const one of shown) {
    const last = made.at(-1);
    if (last && last[0].event.eventName === one.event.eventName && !NAMES_A_PERSON.has(one.event.eventName)) last.push(one);
    else made.push([one]);
  }
  return made;
}

function repeatItem(events) {
  const [{ event, at }] = events;
  return element('li', { class: 'repeat', 'data-key': `repeat-${event.eventID}` },
    element('details', {},
      element('summary', {}, moment(at), ' ', `${figure(events.length)} × `, element('bdi', { class: 'name' }, event.eventName || t('erased'))),
      element('ol', { class: 'events' }, events.map(eventItem))));
}

function eventItem({ event, at, step }) {
  if (NAMES_A_PERSON.has(event.eventName)) return personItem({ event, at, step });
  const isSystem = SYSTEM.has(event.eventName);
  return element('li', { class: isSystem ? 'event system' : 'event', 'data-key': event.eventID, title: hint(event.data) },
    moment(at), ' ', element('bdi', { class: 'name' }, event.eventName || t('erased')), values(event.data), ' ', allOf(event.eventID, t('All data of {event}', { event: event.eventName })));
}

/** A line across the journey where the visitor has said who they are, or has signed out. */
function personItem({ event, at, step }) {
  const { after, before, assurance, rule, warning } = step || {};
  const named = (after && after.identityId) || text(event.data.userID);
  const sure = assurance ? [', ', assurance === 'proven' ? t('verified') : t('not verified')] : '';
  const isSame = step && after.state === before.state && after.identityId === before.identityId && after.sessionId === before.sessionId;
  const person = element('bdi', {}, named);
  const words = rule === 'ignored' ? t('says a user id that names nobody')
    : event.eventName === 'SignOut' ? t('signed out')
      : rule === 'user_info.other_identity' ? parts('names {person} for this one event', { person: element('bdi', {}, text(event.data.userID) || '?') })
        : isSame ? parts('named again as {person}', { person })
          : event.eventName === 'SignIn' && !(after && after.state !== 'AUTHENTICATED') ? parts('signed in as {person}', { person }) : parts('recognized as {person}', { person });
  const isSure = rule !== 'ignored' && event.eventName !== 'SignOut';
  return element('li', { class: 'person', 'data-key': event.eventID },
    moment(at), ' ', element('span', {}, words, isSure ? sure : '', warning ? element('span', { class: 'problem' }, ' ', t(warning)) : ''),
    allOf(event.eventID, t('All data of {event}', { event: event.eventName })));
}

function reportItem({ key, report }) {
  const { channel, agent, queue, startTime, endTime, disposition, note } = report;
  const facts = [agent && t('with {agent}', { agent }), queue, endTime ? span(endTime - startTime) : t('not ended'), disposition].filter(Boolean).join(', ');
  return element('li', { class: 'report', 'data-key': key }, element('p', { class: 'line' },
    moment(startTime), ' ', element('span', { class: 'what' }, CHANNELS[channel] || CHANNELS.OTHER, ' ', element('span', { class: 'soft' }, facts)),
    allOf(key, t('All data of this interaction'))), note ? element('p', { class: 'note' }, note) : '');
}

/** A fold for everything that is known of an event; it is filled when it is opened. */
function allOf(id, label) {
  return element('details', { class: 'all', 'data-key': `all-${id}`, 'data-all': id, 'data-kept': true }, element('summary', { 'aria-label': label, title: t('all data') }, '⋯'));
}

/** The first values of an event, with money as money. */
function values(data) {
  return Object.entries(data).filter(([key, value]) => value !== null && value !== '' && key !== 'currency').slice(0, MOST_VALUES).map(([key, value]) => (
    [' ', element('span', { class: 'value' }, element('span', { class: 'soft' }, `${short(key)} `), element('bdi', {}, shortValue(key, value, data.currency)))]));
}

function shortValue(key, value, currency) {
  if (MONEY.has(key) && typeof value === 'number' && typeof currency === 'string' && /^[A-Z]{3}$/.test(currency)) {
    return new Intl.NumberFormat(locale, { style: 'currency', currency }).format(value);
  }
  if (Array.isArray(value)) return counted(value.length, 'entry', 'entries');
  return short(typeof value === 'object' ? JSON.stringify(value) : String(value));
}

function short(value) {
  return value.length > MOST_LETTERS ? `${value.slice(0, MOST_LETTERS)}…` : value;
}

function hint(data) {
  return Object.keys(data).length ? seen(JSON.stringify(data, null, 1)).slice(0, 1000) : undefined;
}
