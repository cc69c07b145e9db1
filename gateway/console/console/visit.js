// The view of one visit: who it is and how sure that is, the page now, the visits before, the journey, the evidence,
// and the contact, which can be changed. Each part is drawn when its answer comes, and says when it does not.

import { ask, path, query, request } from './api.js';
import { personAddress, visitAddress } from './addresses.js';
import { advice, assuranceWords, sessionAssurance, wayOf } from './certainty.js';
import { ContactFinder, contactsOf, nameOf, question } from './contacts.js';
import { badge, day, element, hasText, moment, place, shortened, span } from './dom.js';
import { Journey } from './journey.js';
import { linkTable } from './links.js';
import { patchChildren } from './patch.js';
import { Source, troubleOf } from './source.js';
import { counted, figure, parts, t } from './text.js';
import { Undo } from './undo.js';
import { earlierVisits } from './visits.js';

const PAGE = 1000; // the API's largest page
const MOST_PAGES = 10; // of events, until more are asked for
const SETTLE_MS = 1500; // until history has stored an event of the live stream
const OVERLAP_S = 60; // events of the last seconds are asked for again, because history may have stored them late
const REFRESH_MS = 15000; // finds what the live stream has not reported
const TICK_MS = 10000; // updates how long
const SHOWN_BEFORE = 3;
const COMPACT_ENTRIES = 5; // of the journey, until more are asked for

export class VisitView {
  /**
   * `close()`: leaves the visit. `changed()`: is called after a link has changed. `failed(words)`: after one could not be
   * changed, when the visit is no longer shown. `rowOf(visitId)`: what the list knows of it. `may(scope)`: whether the
   * user's credentials have a scope. `named(words)`: what the visit is called. `isCompact`: the view is in a frame.
   */
  constructor(root, { close, changed, failed = () => {}, rowOf = () => undefined, may = () => true, named = () => {}, isCompact = false }) {
    Object.assign(this, { root, close, changed, failed, rowOf, may, named, isCompact });
    this.undo = new Undo({
      failed: (problem) => this.say(t('Not done: {trouble}', { trouble: troubleOf(problem, 'identity') }), true),
      changed: () => this.decided(),
    });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !hasText(event.target)) close();
    });
    root.addEventListener('click', (event) => this.act(event));
  }

  /** Show a visit; without an id hide the view. */
  show(visitId) {
    this.undo.commit();
    this.leaving?.abort();
    clearInterval(this.ticking);
    clearInterval(this.refreshing);
    clearTimeout(this.settling);
    this.settling = undefined;
    this.visitId = visitId;
    this.root.hidden = !visitId;
    this.root.replaceChildren();
    if (!visitId) return;
    this.leaving = new AbortController();
    const row = this.rowOf(visitId);
    this.visitor = row && { ...row, ...row.page };
    this.readAt = this.nextEvents = undefined;
    this.journey = new Journey(this.root, this.isCompact ? COMPACT_ENTRIES : undefined);
    this.finder = new ContactFinder();
    this.build();
    this.question();
    this.journey.follow(this.visitor);
    this.draw();
    if (!this.isCompact) this.title.focus(); // the page around a frame has the focus
    this.ticking = setInterval(() => this.tick(), TICK_MS);
    this.refreshing = setInterval(() => document.hidden || this.refresh(), REFRESH_MS);
  }

  build() {
    this.title = element(this.isCompact ? 'h1' : 'h2', { tabindex: '-1' });
    this.links = element('div', { class: 'actions' });
    this.said = element('p', { class: 'said', role: 'status' });
    const part = (name) => element('div', { class: name });
    this.parts = Object.fromEntries(['sure', 'facts', 'decision', 'trouble', 'why', 'standing', 'technical'].map((name) => [name, part(name)]));
    const fold = (words, ...content) => element('details', { class: 'fold' }, element('summary', {}, words), ...content);
    this.whyWords = element('span', {});
    this.finderPlace = element('div', { hidden: true }, this.finder.root);
    this.root.append(
      element('div', { class: 'bar' }, this.title, this.links),
      this.parts.sure, this.parts.facts, this.parts.decision, this.said, this.undo.root,
      this.parts.trouble,
      this.journey.root,
      fold(this.whyWords, this.parts.why),
      fold(t('Contact and decisions'), this.parts.standing, this.finderPlace),
      fold(t('Technical'), this.parts.technical),
    );
  }

  /** Ask everything that does not depend on another answer. */
  question() {
    const { signal } = this.leaving;
    const draw = () => this.draw();
    const source = (service, question, changed = draw) => new Source({ service, ask: question, changed, signal });
    const get = (parts) => (id) => ask(path(parts, id), { signal });
    this.sources = {
      visitor: source('identity', get(['/api/v1/visits/', '/visitor']), () => this.met()),
      explained: source('history', get(['/api/v1/visits/', '/explain']), () => this.explained()),
      events: source('history', (id) => this.readEvents(id, signal)),
      stored: source('history', get(['/server/data/visits/', '']), () => this.stored()),
      browser: source('history', get(['/server/data/visits/', '/userAgent'])),
      reported: source('history', get(['/api/v1/visits/', '/interactions']), () => this.reported()),
      links: source('identity', get(['/api/v1/identities/', '/links']), () => this.linked()),
      contact: source('identity', get(['/api/v1/contacts/', ''])),
      candidates: source('identity', (ids) => contactsOf(JSON.parse(ids), signal)),
      before: source('identity or history', (of) => earlierVisits(JSON.parse(of), signal), () => this.remembered()),
      lastUsers: source('history', get(['/server/data/visits/', '/identities'])),
    };
    for (const name of ['visitor', 'explained', 'events', 'stored', 'browser', 'reported']) this.sources[name].about(this.visitId);
    this.depend();
  }

  /** Ask what depends on who the visitor is. */
  depend() {
    const { links, contact, candidates, before } = this.sources;
    const { identityId, contactId, globalVisitId } = this.known;
    links.about(identityId || undefined);
    const { inForce } = this;
    const linked = inForce ? inForce.status === 'linked' && inForce.contactId : contactId;
    contact.about(linked || undefined);
    const ids = inForce && inForce.status !== 'linked' ? inForce.candidateContactIds : [];
    candidates.about(ids.length ? JSON.stringify(ids) : undefined);
    const of = linked ? { contactId: linked } : identityId ? { identityId } : globalVisitId ? { globalVisitId } : undefined;
    before.about(of && JSON.stringify(of));
  }

  /** What is known of the visitor: live, from the evidence, or from history. */
  get known() {
    const { explained, stored } = this.sources;
    const past = explained.answer || {};
    const known = { ...past, ...this.visitor };
    return { ...known, globalVisitId: known.globalVisitId || (stored.answer && stored.answer.globalVisitID) };
  }

  get inForce() {
    const { answer } = this.sources.links;
    return answer && answer.links.find(({ endTime }) => endTime === null);
  }

  met() {
    const { visitor: { answer }, explained, links } = this.sources;
    const before = this.visitor;
    if (answer) this.visitor = answer;
    if (answer && before && ['state', 'identityId', 'sessionId'].some((key) => before[key] !== answer[key])) explained.load();
    if (answer && before && before.contactStatus !== answer.contactStatus) links.load();
    this.journey.follow(this.visitor);
    this.depend();
    this.draw();
  }

  explained() {
    const { answer } = this.sources.explained;
    if (answer) this.journey.explain(answer.transitions);
    this.depend();
    this.draw();
  }

  /** Of an anonymous visitor: ask who used the device in the visit before. */
  remembered() {
    const { before, lastUsers } = this.sources;
    const last = this.known.identityId ? undefined : this.others.earlier[0];
    lastUsers.about(before.answer && last && last.visitId);
    this.draw();
  }

  /** The other visits of the person or device: those that began before this one, newest first, and how many later. */
  get others() {
    const { before: { answer }, stored } = this.sources;
    const visits = answer ? answer.visits.filter(({ visitId }) => visitId !== this.visitId) : [];
    const began = stored.answer ? stored.answer.startDate : Infinity;
    const earlier = visits.filter(({ startDate }) => startDate <= began);
    return { earlier, later: visits.length - earlier.length };
  }

  stored() {
    this.depend(); // history knows the device of visits that are no longer live
    this.remembered();
  }

  linked() {
    this.depend();
    this.draw();
  }

  reported() {
    const { answer } = this.sources.reported;
    if (answer) this.journey.report(answer.interactions);
    this.draw();
  }

  /** Read the events: first all of them, later those received since. */
  async readEvents(visitId, signal) {
    const askedAt = Date.now();
    const since = this.readAt ? { age: Math.ceil((askedAt - this.readAt) / 1000) + OVERLAP_S } : {};
    let start = this.nextEvents && !this.readAt ? this.nextEvents : '';
    for (let read = 0; read < MOST_PAGES; read += 1) {
      const response = await request(path(['/server/data/visits/', '/events'], visitId) + query({ page_size: PAGE, page_start: start, ...since }), { signal });
      if (response.status === 204) break;
      this.journey.add(await response.json(), Boolean(this.readAt));
      start = response.headers.get('Paging-Next') || '';
      if (!start) break;
    }
    if (!this.readAt) this.nextEvents = start;
    this.readAt = askedAt;
    return { isMore: Boolean(this.nextEvents) };
  }

  /** Take a message of the live stream. */
  tell(visitId, kind, data) {
    if (!this.visitId || visitId !== this.visitId) return;
    const { visitor, explained, links } = this.sources;
    if (kind !== 'transition') {
      this.journey.add([data.event], true);
      this.settling ||= setTimeout(() => {
        this.settling = undefined;
        visitor.load(); // the page now
      }, SETTLE_MS);
      return;
    }
    visitor.set(data.visitor);
    if (data.changes.some((change) => change === 'STATE' || change === 'IDENTITY')) setTimeout(() => explained.load(), SETTLE_MS);
    if (data.changes.includes('CONTACT')) links.load();
  }

  /** Ask for what the live stream may not have reported. */
  refresh() {
    for (const name of ['visitor', 'events', 'reported']) this.sources[name].load();
  }

  tick() {
    this.journey.draw();
    this.draw();
  }

  draw() {
    const { known } = this;
    const { explained, contact, stored, visitor } = this.sources;
    const isUnknown = visitor.isMissing && explained.isMissing && stored.isMissing && !this.visitor;
    const assurance = sessionAssurance(known, explained.answer && explained.answer.transitions);
    const name = isUnknown ? t('No such visit') : this.name();
    patchChildren(this.title, [...element('p', {}, name).childNodes]);
    this.named(name);
    this.root.classList.toggle('is-unknown', isUnknown);
    patchChildren(this.links, this.actions());
    patchChildren(this.parts.sure, isUnknown ? [unknownVisit(this.visitId)] : this.sure(known, assurance));
    patchChildren(this.parts.facts, isUnknown ? [] : this.facts(known));
    patchChildren(this.parts.decision, this.undo.isWaiting ? [] : this.decision());
    patchChildren(this.parts.trouble, this.troubles());
    this.drawFolds(known, contact);
  }

  name() {
    const { contact } = this.sources;
    const { identityId } = this.known;
    if (contact.answer) return nameOf(contact.answer);
    return identityId || t('Visitor {id}', { id: this.visitId.slice(0, 4) });
  }

  actions() {
    const { identityId, contactId, globalVisitId } = this.known;
    const person = contactId || identityId || globalVisitId;
    return [
      person ? element('a', { 'data-key': 'person', class: 'button', href: personAddress(person) }, t('Person')) : '',
      action('copy', t('Copy link'), { 'data-copy': new URL(visitAddress(this.visitId), location.href).href }),
      this.isCompact
        ? element('a', { 'data-key': 'console', class: 'button', href: visitAddress(this.visitId) }, t('Open in the console'))
        : element('button', { type: 'button', class: 'quiet', 'data-key': 'close', 'data-do': 'close', 'aria-label': t('Close the visit') }, t('Close')),
    ].filter(Boolean);
  }

  sure(known, assurance) {
    const { contact } = this.sources;
    if (!known.state) return [element('p', { class: 'soft' }, t('Who it is: not known yet.'))];
    const reach = contact.answer ? [...contact.answer.emailAddresses, ...contact.answer.phoneNumbers] : [];
    const way = this.inForce && this.inForce.status === 'linked' && wayOf(this.inForce);
    return [
      element('p', { class: 'state' }, badge(known.state, assurance), ' ', element('span', {}, advice(known.state, assurance))),
      way ? element('p', { class: 'state' },
        element('span', { class: `way ${way.kind}` }, parts('Contact {contact} {way}', { contact: element('bdi', {}, known.contactId || this.inForce.contactId), way: way.words })),
        way.todo ? [' ', way.todo] : '', ' ',
        this.may('contacts') && !this.undo.isWaiting ? action('unlink', t('Not this person')) : '') : '',
      reach.length ? element('p', { class: 'reach' }, reach.map((value) => element('span', { 'data-key': value }, element('bdi', {}, value), ' ', copying(value)))) : '',
    ].filter(Boolean);
  }

  facts(known) {
    const people = this.people();
    return [element('dl', {},
      people.length > 1 ? [element('dt', {}, t('Shared')), element('dd', { class: 'shared' }, t('{count} people used this computer:', { count: figure(people.length) }), ' ', people.flatMap((who, number) => [number ? ', ' : '', element('bdi', {}, who)]))] : '',
      element('dt', {}, t('Now')), element('dd', { class: 'now' }, this.now(known)),
      element('dt', {}, t('Before')), element('dd', { class: 'before' }, this.before(known)))];
  }

  /** The identities that this visit has named, in order. */
  people() {
    const { answer } = this.sources.explained;
    return [...new Set((answer ? answer.transitions : []).map(({ after }) => after.identityId).filter(Boolean))];
  }

  now(known) {
    const { browser } = this.sources;
    const { url, title, presence, pageEnterTime, leaveTime, site } = known;
    const page = url ? [element('strong', {}, title || place(url)), ' '] : [];
    const address = url ? [' ', element('span', { class: 'soft address' }, url), ' ', copying(url)] : [];
    const { answer } = browser;
    const device = answer ? [' · ', [answer.family, answer.os].filter(Boolean).join(', ') || t('browser not known'), answer.bot ? `, ${t('a robot')}` : ''] : [];
    const on = site ? [' · ', element('bdi', {}, site)] : [];
    if (presence === 'PRESENT') {
      return [page.length ? page : [t('On the site, page not known'), ' '], pageEnterTime ? t('for {time}', { time: span(Date.now() - pageEnterTime) }) : '', address, on, device, this.cameFrom()];
    }
    if (!presence) return [this.sources.visitor.isOpen ? '…' : t('Not on the site.'), on, device, this.cameFrom()];
    return [presence === 'LEFT' ? t('Left') : t('Ended'), ' ', leaveTime ? day(leaveTime) : '', page.length ? [', ', parts('last on {page}', { page })] : '', address, on, device, this.cameFrom()];
  }

  cameFrom() {
    const first = [...this.journey.events.values()].find(({ eventName }) => eventName === 'PageEntered');
    const from = first && typeof first.data.referrer === 'string' && hostOf(first.data.referrer);
    return from && from !== hostOf(first.url) ? [' · ', parts('came from {host}', { host: element('bdi', {}, from) })] : [];
  }

  before(known) {
    const { before } = this.sources;
    const { identityId, contactId, globalVisitId } = known;
    if (before.trouble) return element('span', { class: before.problem ? 'problem' : 'soft' }, before.trouble);
    if (before.isMissing) return t('No visit before.');
    if (!before.answer) return element('span', { class: 'soft' }, before.subject || this.sources.stored.isOpen ? '…' : t('No visit of this device is known.'));
    const { others: { earlier, later }, sources: { lastUsers } } = this;
    const all = (words) => [' · ', element('a', { 'data-key': words, href: personAddress(contactId || identityId || globalVisitId) }, words)];
    const shown = earlier.slice(0, SHOWN_BEFORE).map((visit) => element('a', { 'data-key': visit.visitId, href: visitAddress(visit.visitId) }, day(visit.startDate), ', ', visit.endDate ? span(visit.endDate - visit.startDate) : t('open')));
    const count = counted(earlier.length, 'visit');
    const many = before.answer.isMore ? t('more than {count}', { count }) : count;
    const some = identityId ? many : t('{visits} on this device', { visits: many });
    const none = identityId ? t('No visit before.') : t('No visit before on this device.');
    return [
      earlier.length ? `${some}: ` : none,
      shown.flatMap((link, number) => (number ? [' · ', link] : [link])),
      earlier.length > SHOWN_BEFORE ? all(t('all')) : '',
      later ? all(t('{count} later', { count: figure(later) })) : '',
      !identityId && lastUsers.answer ? [' · ', parts('last as {person}', { person: element('bdi', {}, lastUsers.answer.at(-1).identityId) })] : '',
    ];
  }

  /** What a person should decide: which of several contacts, or whether a look-alike is the contact. */
  decision() {
    const { candidates } = this.sources;
    const { inForce } = this;
    if (!inForce || inForce.status === 'linked' || !inForce.candidateCount) return [];
    return [question(inForce, candidates.answer || [], candidates.trouble, this.may('contacts'))];
  }

  /** One line for each service that does not answer. */
  troubles() {
    const troubled = new Map(); // by service: of those that fail or wait, one that fails before one that waits
    for (const [name, source] of Object.entries(this.sources)) {
      if (['before', 'candidates', 'lastUsers'].includes(name) || !source.trouble) continue;
      if (!troubled.has(source.service) || source.problem) troubled.set(source.service, source);
    }
    const { events: { answer }, reported } = this.sources;
    return [
      ...[...troubled].map(([service, { problem, trouble }]) => element('p', { class: problem ? 'problem' : 'soft', role: 'status', 'data-key': service }, trouble)),
      answer && answer.isMore ? element('p', { class: 'soft' }, t('The first {count} events are shown.', { count: figure(this.journey.events.size) }), ' ', action('more', t('More'))) : '',
      reported.answer && reported.answer.nextPageToken ? element('p', { class: 'soft' }, t('Only the newest interactions are shown.')) : '',
      answer && !this.journey.events.size ? element('p', { class: 'soft' }, t('No events are stored yet.')) : '',
    ].filter(Boolean);
  }

  drawFolds(known) {
    const { explained, links } = this.sources;
    const steps = explained.answer ? explained.answer.transitions : [];
    patchChildren(this.whyWords, [document.createTextNode(`${t('Why we say so')}${explained.answer ? ` (${counted(steps.length, 'step')})` : ''}`)]);
    patchChildren(this.parts.why, [
      steps.length ? element('ol', { class: 'steps' }, steps.map(step)) : element('p', { class: 'soft' }, explained.isOpen ? '…' : explained.trouble || t('No event has said who this is.')),
      explained.answer && explained.answer.truncated ? element('p', { class: 'soft' }, t('This visit has had more transitions than are kept. Only the earliest count.')) : '',
    ].filter(Boolean));
    patchChildren(this.parts.standing, [
      element('p', {}, known.identityId ? standing(links, this.inForce) : t('This visitor has no identity yet. Only an identity can be linked to a contact.')),
      linkTable(links.answer ? links.answer.links : []),
      links.answer && links.answer.nextPageToken ? element('p', { class: 'soft' }, t('Only the newest decisions are shown.')) : '',
    ].filter(Boolean));
    this.finderPlace.hidden = !known.identityId || !this.may('contacts');
    patchChildren(this.parts.technical, [element('dl', {}, [
      [t('Visit'), this.visitId], [t('Device'), known.globalVisitId], [t('Session'), known.sessionId], [t('Identity'), known.identityId], [t('Contact'), known.contactId],
      [t('Site'), known.site], [t('Last event'), known.lastEventTime && moment(known.lastEventTime)],
      [t('Open pages'), known.openPageCount === undefined ? undefined : figure(known.openPageCount)],
      [t('Browser'), this.sources.browser.answer && this.sources.browser.answer.userAgent],
    ].filter(([, value]) => value).flatMap(([name, value]) => [
      element('dt', {}, name), element('dd', {}, value instanceof Node ? value : [element('code', {}, value), ' ', copying(value)])]))]);
  }

  act(event) {
    const from = event.target.closest('[data-do]');
    if (!from) return;
    const { do: what, contact, name, copy } = from.dataset;
    if (what === 'close') this.close();
    if (what === 'copy') copyText(copy, (words) => this.say(words));
    if (what === 'more') this.readMore();
    if (what === 'link') this.link(contact, name);
    if (what === 'unlink') this.unlink();
  }

  readMore() {
    this.readAt = undefined;
    this.sources.events.load();
  }

  link(contactId, name) {
    const { identityId } = this.known;
    this.finder.clear();
    this.decide(t('Will be linked to {name}.', { name }), path(['/api/v1/identities/', '/contact'], identityId), { method: 'PUT', body: { contactId } });
  }

  unlink() {
    const { contact } = this.sources;
    const name = contact.answer ? nameOf(contact.answer) : this.inForce.contactId;
    this.decide(t('Will be unlinked from {name}.', { name }), path(['/api/v1/identities/', '/contact'], this.known.identityId), { method: 'DELETE' });
  }

  decide(words, address, options) {
    this.say('');
    this.undo.offer(words, () => ask(address, options));
    this.draw();
  }

  /** After a decision was sent or undone. */
  decided() {
    this.changed();
    if (!this.visitId) return;
    if (!this.root.contains(document.activeElement)) this.title.focus();
    this.sources.links.load();
    this.sources.visitor.load();
    this.draw();
  }

  say(words, isProblem = false) {
    if (!this.visitId) {
      if (isProblem) this.failed(words);
      return;
    }
    this.said.textContent = words;
    this.said.classList.toggle('problem', isProblem);
  }
}

function action(what, words, more = {}) {
  return element('button', { type: 'button', class: 'quiet', 'data-key': what, 'data-do': what, ...more }, words);
}

function copying(value) {
  if (!navigator.clipboard) return '';
  return element('button', { type: 'button', class: 'copy', 'data-do': 'copy', 'data-copy': value, 'aria-label': t('Copy {value}', { value }) }, t('copy'));
}

async function copyText(value, say) {
  try {
    await navigator.clipboard.writeText(value);
    say(t('Copied.'));
  } catch {
    say(t('Copy it by hand: {value}', { value }));
  }
}

function unknownVisit(visitId) {
  return element('p', {}, parts('No visit has the id {id}. If it has just begun, it appears here in a few seconds; otherwise look in the list, or check the id.', { id: element('code', {}, visitId) }));
}

function hostOf(url) {
  try {
    return new URL(url).host;
  } catch {
    return '';
  }
}

function step({ rule, effect, assurance, assuranceReason, ignoredReason, policyVersion, warning, evidence, before, after }) {
  const [{ eventName, eventTime, eventId }] = evidence;
  const codes = [rule, assuranceReason, ignoredReason, policyVersion].filter(Boolean).join(', ');
  return element('li', { 'data-key': eventId },
    element('p', {}, moment(eventTime), ' ', element('strong', {}, eventName || t('an event that is not stored')), ' ', badge(before.state), ' → ', badge(after.state, assurance), ' ', element('bdi', {}, after.identityId || '')),
    element('p', {}, t(effect)),
    assurance ? element('p', { class: `assurance ${assurance}` }, assuranceWords(assurance, assuranceReason)) : '',
    warning ? element('p', { class: 'problem' }, t(warning)) : '',
    element('details', { 'data-key': `rule-${eventId}` }, element('summary', {}, t('Rule')), element('code', {}, codes), ' ', shortened(eventId, 36)));
}

function standing({ isOpen, trouble, isMissing }, inForce) {
  if (trouble) return element('span', { class: 'problem' }, trouble);
  if (isOpen) return '…';
  if (!inForce || isMissing) return t('Not linked: no contact matches.');
  if (inForce.status === 'linked') return parts('Linked to {contact}, {way}, {time}.', { contact: element('strong', {}, inForce.contactId), way: wayOf(inForce).words, time: day(inForce.createTime) });
  if (inForce.status === 'ambiguous') return t('Not linked: {count} contacts match.', { count: figure(inForce.candidateCount) });
  return inForce.rule === 'manual' ? parts('Unlinked by {actor}, {time}.', { actor: element('bdi', {}, inForce.actor), time: day(inForce.createTime) }) : t('Not linked.');
}
