// The view of one person: a contact with its identities, an identity without a contact, or a device. It exports and
// erases.

import { Problem, ask, path, query, request } from './api.js';
import { visitAddress } from './addresses.js';
import { wayOf } from './certainty.js';
import { nameOf } from './contacts.js';
import { day, element, hasText, moment, place, span } from './dom.js';
import { Eraser } from './erase.js';
import { CHANNELS } from './journey.js';
import { patchChildren } from './patch.js';
import { save } from './save.js';
import { Source, troubleOf } from './source.js';
import { linkTable } from './links.js';
import { counted, figure, parts, t } from './text.js';
import { Undo } from './undo.js';
import { earlierVisits, newestFirst } from './visits.js';

const MOST_IDENTITIES = 20; // whose decisions and visits are read
const MOST_CARDS = 12; // visits shown, until more are asked for
const MOST_MARKS = 100; // business events of a visit
const REFRESH_MS = 15000;
const UUID = /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i; // what a device may have as its id

export class PersonView {
  /**
   * `close()`: leaves the person. `changed()`: is called after links or data have changed. `failed(words)`: after a link
   * could not be changed, when the person is no longer shown. `may(scope)`: whether the user's credentials have a scope.
   * `me()`: the user's name, for receipts. `named(words)`: what the person is called.
   */
  constructor(root, { close, changed = () => {}, failed = () => {}, may = () => true, me = () => '', named = () => {} }) {
    Object.assign(this, { root, close, tellChanged: changed, failed, may, me, named });
    this.undo = new Undo({
      failed: (problem) => this.say(t('Not done: {trouble}', { trouble: troubleOf(problem, 'identity') }), true),
      changed: () => this.decided(),
    });
    this.eraser = new Eraser({ me, done: () => { this.sources.who.load(); this.tellChanged(); } });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !hasText(event.target)) close();
    });
    root.addEventListener('click', (event) => this.act(event));
  }

  /** Show a person by contact, identity or device; without an id hide the view. */
  show(id) {
    this.undo.commit();
    this.leaving?.abort();
    clearInterval(this.refreshing);
    this.id = id;
    this.root.hidden = !id;
    this.root.replaceChildren();
    if (!id) return;
    this.leaving = new AbortController();
    this.most = MOST_CARDS;
    this.ofIdentity = new Map(); // by identity: sources of its decisions and visits
    this.marks = new Map(); // by visit: a source of its business events
    this.build();
    this.question();
    this.draw();
    this.title.focus();
    this.refreshing = setInterval(() => document.hidden || this.sources.here.load(), REFRESH_MS);
  }

  build() {
    this.title = element('h2', { tabindex: '-1' });
    this.actions = element('div', { class: 'actions' });
    this.said = element('p', { class: 'said', role: 'status' });
    this.parts = Object.fromEntries(['summary', 'identities', 'visits', 'interactions', 'changes'].map((name) => [name, element('div', {})]));
    this.root.append(element('div', { class: 'bar' }, this.title, this.actions), this.said, this.undo.root, this.eraser.root, ...Object.values(this.parts));
    this.eraser.close();
  }

  question() {
    const { signal } = this.leaving;
    const draw = () => this.draw();
    this.sources = {
      who: new Source({ service: 'identity', ask: (id) => whoIs(id, signal), changed: () => this.met(), signal }),
      here: new Source({ service: 'identity', ask: (filter) => ask(`/api/v1/visitors${filter}`, { signal }), changed: draw, signal }),
    };
    this.sources.who.about(this.id);
  }

  /** Ask what depends on who it is. */
  met() {
    const { signal } = this.leaving;
    const { answer } = this.sources.who;
    const draw = () => this.draw();
    if (answer) {
      const filter = answer.contact ? { contactId: answer.contact.contactId } : answer.isDevice ? { globalVisitId: this.id } : { identityId: answer.identities[0].identityId };
      this.sources.here.about(query(filter));
      const ids = new Set(answer.identities.map(({ identityId }) => identityId));
      for (const id of this.ofIdentity.keys()) if (id && !ids.has(id)) this.ofIdentity.delete(id);
      for (const { identityId } of answer.identities.slice(0, MOST_IDENTITIES)) {
        if (this.ofIdentity.has(identityId)) continue;
        const links = new Source({ service: 'identity', ask: (id) => ask(path(['/api/v1/identities/', '/links'], id), { signal }), changed: draw, signal });
        const visits = new Source({ service: 'history', ask: (id) => earlierVisits({ identityId: id }, signal), changed: draw, signal });
        this.ofIdentity.set(identityId, { links, visits });
        links.about(identityId);
        visits.about(identityId);
      }
      if (answer.isDevice && !this.ofIdentity.has('')) {
        const visits = new Source({ service: 'history', ask: (id) => earlierVisits({ globalVisitId: id }, signal), changed: draw, signal });
        this.ofIdentity.set('', { visits });
        visits.about(this.id);
      }
    }
    this.draw();
  }

  get name() {
    const { answer } = this.sources.who;
    if (!answer) return this.id;
    if (answer.contact) return nameOf(answer.contact);
    return answer.isDevice ? t('Device {id}', { id: this.id.slice(0, 8) }) : answer.identities[0].identityId;
  }

  /** All visits that have been read, newest first. */
  get visits() {
    return newestFirst([...this.ofIdentity.values()].flatMap(({ visits }) => (visits.answer ? visits.answer.visits : [])));
  }

  draw() {
    const { who } = this.sources;
    const isUnknown = who.isMissing;
    patchChildren(this.title, [...element('p', {}, isUnknown ? t('Nobody found') : this.name).childNodes]);
    this.named(isUnknown ? t('Nobody found') : this.name);
    patchChildren(this.actions, this.buttons());
    if (!who.answer || isUnknown) {
      const words = isUnknown ? parts('Nothing is stored under {id}. Look for a name, an e-mail address or an identity as the website sends it.', { id: element('code', {}, this.id) }) : who.trouble || '…';
      patchChildren(this.parts.summary, [element('p', { class: who.trouble ? 'problem' : 'soft' }, words)]);
      for (const name of ['identities', 'visits', 'interactions', 'changes']) patchChildren(this.parts[name], []);
      return;
    }
    patchChildren(this.parts.summary, this.summary(who.answer));
    patchChildren(this.parts.identities, this.identities(who.answer));
    patchChildren(this.parts.visits, this.cards());
    patchChildren(this.parts.interactions, reports(who.answer.interactions));
    patchChildren(this.parts.changes, this.changes(who.answer));
  }

  buttons() {
    const { answer, isMissing } = this.sources.who;
    const isPerson = answer && !isMissing && answer.identities.length;
    return [
      isPerson ? button('export', t('Export file')) : '',
      isPerson && this.may('erase') ? button('erase', t('Erase…')) : '',
      button('close', t('Close')),
    ].filter(Boolean);
  }

  summary({ contact, identities, isDevice, nextPageToken }) {
    const { here, who } = this.sources;
    const { visits } = this;
    const isRead = [...this.ofIdentity.values()].every((of) => of.visits.answeredAt);
    const now = here.answer ? here.answer.visitors : [];
    const facts = [
      visits.length && isRead ? parts('first seen {time}', { time: day(visits.at(-1).startDate) }) : '',
      visits.length ? parts('last visit {time}', { time: day(visits[0].startDate) }) : '',
      isRead ? atLeast(counted(visits.length, 'visit'), this.hasMore) : '',
      isDevice ? '' : atLeast(counted(identities.length, 'identity', 'identities'), nextPageToken),
    ].filter(Boolean);
    return [
      contact ? element('p', {}, t('Contact'), ' ', element('code', {}, contact.contactId), [...contact.emailAddresses, ...contact.phoneNumbers].map((value) => [' · ', element('bdi', {}, value)])) : element('p', { class: 'soft' }, isDevice ? t('A device: the visits of one browser.') : t('Not linked to a contact.')),
      who.trouble ? element('p', { class: 'problem' }, who.trouble) : '',
      here.trouble ? element('p', { class: 'problem' }, here.trouble) : '',
      ...now.map((visitor) => element('p', { class: 'here', 'data-key': visitor.visitId }, t('On the site now:'), ' ', element('a', { href: visitAddress(visitor.visitId) }, visitor.title || place(visitor.url || '') || t('see the visit')), ' · ', element('bdi', {}, visitor.site))),
      here.answer && !now.length ? element('p', { class: 'soft' }, t('Not on the site now.')) : '',
      element('p', { class: 'known' }, facts.flatMap((fact, number) => [number ? ' · ' : '', fact])),
    ].filter(Boolean);
  }

  get hasMore() {
    return [...this.ofIdentity.values()].some(({ visits }) => visits.answer && visits.answer.isMore);
  }

  identities({ identities, isDevice }) {
    if (isDevice) return [];
    return [element('h3', {}, t('Identities')), element('ul', { class: 'identities' }, identities.map(({ identityId }) => {
      const of = this.ofIdentity.get(identityId);
      const inForce = of && of.links.answer && of.links.answer.links.find(({ endTime }) => endTime === null);
      const isLinked = inForce && inForce.status === 'linked';
      const way = isLinked && wayOf(inForce);
      const count = of && of.visits.answer ? counted(of.visits.answer.visits.length, 'visit') : '';
      const trouble = of && (of.links.trouble || of.visits.trouble);
      const canChange = isLinked && this.may('contacts') && !this.undo.isWaiting;
      const data = { 'data-identity': identityId, 'data-contact': isLinked ? inForce.contactId : undefined };
      return element('li', { 'data-key': identityId },
        element('strong', {}, identityId), ' ',
        way ? element('span', { class: `way ${way.kind}` }, way.words) : of && of.links.answeredAt ? element('span', { class: 'soft' }, t('not linked')) : '', ' ',
        element('span', { class: 'soft' }, count), ' ',
        canChange && inForce.rule !== 'manual' ? button('confirm', t('Confirm'), data) : '', ' ',
        canChange ? button('unlink', t('Unlink'), data) : '',
        way && way.todo ? element('span', { class: 'soft' }, ' ', way.todo) : '',
        trouble ? element('span', { class: 'problem' }, ' ', trouble) : '');
    })), identities.length > MOST_IDENTITIES ? element('p', { class: 'soft' }, t('Decisions and visits of the first {count} identities are shown.', { count: figure(MOST_IDENTITIES) })) : ''].filter(Boolean);
  }

  cards() {
    const { visits } = this;
    const { signal } = this.leaving;
    const isOpen = [...this.ofIdentity.values()].some((of) => of.visits.isOpen);
    const shown = visits.slice(0, this.most);
    for (const { visitId } of shown) {
      if (this.marks.has(visitId)) continue;
      const source = new Source({
        service: 'history', signal, changed: () => this.draw(),
        ask: (id) => ask(path(['/server/data/visits/', '/events'], id) + query({ eventType: 'BUSINESS', page_size: MOST_MARKS }), { signal }),
      });
      this.marks.set(visitId, source);
      source.about(visitId);
    }
    return [
      element('h3', {}, t('Visits')),
      shown.length ? element('ul', { class: 'cards' }, shown.map((visit) => element('li', { 'data-key': visit.visitId },
        element('a', { href: visitAddress(visit.visitId) }, moment(visit.startDate)), ' ',
        element('span', { class: 'soft' }, visit.endDate ? span(visit.endDate - visit.startDate) : t('open'), siteOf(this.marks.get(visit.visitId).answer)),
        element('p', { class: 'marks' }, marksOf(this.marks.get(visit.visitId)))))) : element('p', { class: 'soft' }, isOpen ? '…' : t('No visit is stored.')),
      visits.length > this.most ? button('more', t('{count} more', { count: figure(visits.length - this.most) })) : '',
    ].filter(Boolean);
  }

  changes({ identities }) {
    const all = [...this.ofIdentity].flatMap(([identityId, { links }]) => (links && links.answer ? links.answer.links.map((link) => ({ ...link, identityId })) : []));
    if (!all.length) return [];
    return [element('h3', {}, t('Changes')), linkTable(all.sort((one, other) => other.createTime - one.createTime), identities.length > 1)];
  }

  act(event) {
    const from = event.target.closest('[data-do]');
    if (!from) return;
    const { do: what, identity, contact } = from.dataset;
    if (what === 'close') this.close();
    if (what === 'more') {
      this.most += MOST_CARDS;
      this.draw();
    }
    if (what === 'export') this.export();
    if (what === 'erase') this.erase();
    if (what === 'confirm') this.decide(t('{identity} will be confirmed.', { identity }), identity, { method: 'PUT', body: { contactId: contact } });
    if (what === 'unlink') this.decide(t('{identity} will be unlinked.', { identity }), identity, { method: 'DELETE' });
  }

  decide(words, identityId, options) {
    this.say('');
    this.undo.offer(words, () => ask(path(['/api/v1/identities/', '/contact'], identityId), options));
    this.draw();
  }

  decided() {
    this.tellChanged();
    if (!this.id) return;
    if (!this.root.contains(document.activeElement)) this.title.focus();
    for (const { links } of this.ofIdentity.values()) links?.load();
    this.sources.who.load();
    this.draw();
  }

  /** Save everything that is stored of the identities, as it is exported, in one file. */
  async export() {
    const { identities, nextPageToken } = this.sources.who.answer;
    this.say(t('Exporting…'));
    try {
      const files = [];
      for (const { identityId } of identities) {
        const response = await request(path(['/api/v1/identities/', '/export'], identityId), { signal: this.leaving.signal });
        files.push(await response.blob());
      }
      const file = new Blob(files, { type: 'application/x-ndjson' });
      save(file, `footfall ${this.name} ${new Date().toISOString().slice(0, 10)}.ndjson`);
      const rest = nextPageToken ? ` ${t('Only the first {count} identities: the person has more.', { count: figure(identities.length) })}` : '';
      this.say(t('Saved: one JSON object a line, {size} kB.', { size: figure(Math.ceil(file.size / 1024)) }) + rest);
    } catch (problem) {
      if (problem.name === 'AbortError') return;
      const words = problem instanceof Problem ? troubleOf(problem, 'history') : t('The answer was cut off.');
      this.say(`${t('Nothing was saved.')} ${words}`, true);
    }
  }

  erase() {
    const { identities, contact, nextPageToken } = this.sources.who.answer;
    const visitsOf = (id) => {
      const of = this.ofIdentity.get(id);
      return of && of.visits.answer ? of.visits.answer.visits.length : undefined;
    };
    this.eraser.open({
      name: this.name,
      contact,
      mayEraseContact: this.may('contacts'),
      isMore: Boolean(nextPageToken),
      identities: identities.map(({ identityId }) => ({ identityId, visits: visitsOf(identityId) })),
    });
  }

  say(words, isProblem = false) {
    if (!this.id) {
      if (isProblem) this.failed(words);
      return;
    }
    this.said.textContent = words;
    this.said.classList.toggle('problem', isProblem);
  }
}

/** Who an id is: a contact, or the contact of an identity; an identity; a device. Throws a Problem, 404: nobody. */
async function whoIs(id, signal) {
  const optional = (answer) => answer.catch((problem) => {
    if (problem instanceof Problem && [400, 404].includes(problem.status)) return undefined;
    throw problem;
  });
  const personOf = (contactId) => optional(ask(path(['/api/v1/contacts/', '/person'], contactId), { signal }));
  const [person, identity] = await Promise.all([personOf(id), optional(ask(path(['/server/data/identities/', ''], id), { signal }))]);
  if (person) return person;
  if (identity) {
    const linked = identity.entityInCS && await personOf(identity.entityInCS);
    return linked || { identities: [identity] };
  }
  const visits = UUID.test(id) && await optional(ask(`/server/data/visits${query({ globalVisitID: id, page_size: 1 })}`, { signal }));
  if (!visits) throw new Problem(404, 'nobody');
  return { identities: [], isDevice: true };
}

function atLeast(count, isMore) {
  return isMore ? t('more than {count}', { count }) : count;
}

function button(what, words, more = {}) {
  return element('button', { type: 'button', class: 'quiet', 'data-key': what + (more['data-identity'] || ''), 'data-do': what, ...more }, words);
}

/** The website of a visit, by the addresses of its events. */
function siteOf(events) {
  const found = (events || []).find(({ url }) => url);
  const host = found && URL.canParse(found.url) && new URL(found.url).host;
  return host ? [' · ', element('bdi', {}, host)] : '';
}

function marksOf({ answer, trouble, isOpen }) {
  if (trouble) return element('span', { class: 'problem' }, trouble);
  if (isOpen) return '…';
  const counts = new Map();
  for (const { eventName } of answer || []) counts.set(eventName, (counts.get(eventName) || 0) + 1);
  return [...counts].map(([name, count]) => element('span', { class: 'mark', 'data-key': name }, name || t('erased'), count > 1 ? ` ×${count}` : ''));
}

function reports(interactions) {
  if (!interactions || !interactions.length) return [];
  return [element('h3', {}, t('Interactions')), element('ul', { class: 'cards' }, interactions.map((one) => element('li', { 'data-key': one.interactionId },
    moment(one.startTime), ' ', [CHANNELS[one.channel] || CHANNELS.OTHER, one.agent, one.disposition].filter(Boolean).join(', '),
    one.note ? element('p', {}, one.note) : '')))];
}
