// The view of one visit: its identity with the evidence, its pages and events, and its contact, which can be changed.

import { Problem, ask, path, query } from './api.js';
import { badge, duration, element, moment, place, shortened } from './dom.js';

const MOST_EVENTS = 1000; // the API's largest page
const SETTLE_MS = 1500; // until history has stored an event of the live stream

export class VisitView {
  /** Calls `close()` to leave the visit, `open(visitId)` to show another, and `changed()` after a link has changed. */
  constructor(root, { close, open, changed }) {
    Object.assign(this, { root, close, open, changed });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') close();
    });
  }

  /** Show a visit; without an id hide the view. */
  async show(visitId) {
    clearTimeout(this.settling);
    this.settling = undefined;
    this.leaving?.abort();
    this.leaving = new AbortController();
    this.visitId = visitId;
    this.root.hidden = !visitId;
    this.root.replaceChildren();
    if (!visitId) return;
    this.title = element('h2', { tabindex: '-1' }, 'Visit ', shortened(visitId, 36));
    this.sections = Object.fromEntries(['now', 'contact', 'timeline', 'pages', 'events', 'person'].map((name) => [name, element('div', { class: name })]));
    this.said = element('p', { class: 'said', role: 'status' });
    this.root.append(
      element('div', { class: 'bar' }, this.title, quiet('Close', () => this.close())),
      this.said,
      ...Object.values(this.sections),
    );
    this.title.focus();
    await this.refresh();
  }

  /** Take a message of the live stream: refresh the view once an event of this visit is stored. */
  tell(visitId) {
    if (visitId !== this.visitId) return;
    this.settling ||= setTimeout(() => {
      this.settling = undefined;
      this.refresh();
    }, SETTLE_MS);
  }

  async refresh() {
    const { visitId, leaving: { signal } } = this;
    const turn = this.turn = {};
    const of = (parts, ...ids) => ask(path(parts, ...ids), { signal }).catch(unlessMissing);
    try {
      const [visitor, explained, pages, events] = await Promise.all([
        of(['/api/v1/visits/', '/visitor'], visitId),
        of(['/api/v1/visits/', '/explain'], visitId),
        of(['/server/data/visits/', '/pages'], visitId),
        of(['/server/data/visits/', `/events${query({ page_size: MOST_EVENTS })}`], visitId),
      ]);
      const identityId = (visitor || explained || {}).identityId;
      const links = identityId && await of(['/api/v1/identities/', '/links'], identityId);
      const inForce = links && links.links.find(({ endTime }) => endTime === null);
      const contactId = inForce && inForce.status === 'linked' ? inForce.contactId : undefined;
      const person = contactId && await of(['/api/v1/contacts/', '/person'], contactId);
      if (signal.aborted || turn !== this.turn) return;
      this.fill('now', now(visitor, explained));
      this.fill('timeline', timeline(explained));
      this.fill('pages', pageTable(pages));
      this.fill('events', eventTable(events));
      this.fill('person', personPart(person, visitId, this.open));
      // Not while the user types in it, unless the identity has changed.
      if (identityId !== this.contactOf || !this.sections.contact.contains(document.activeElement)) {
        this.contactOf = identityId;
        this.fill('contact', this.contactPart(identityId, links, inForce));
      }
    } catch (problem) {
      if (!signal.aborted) this.say(problem.message, true);
    }
  }

  /** Draw a section again. Open details stay open and keep the focus. */
  fill(name, children) {
    const section = this.sections[name];
    const keyed = (selector) => [...section.querySelectorAll(selector)].map((found) => found.dataset.key);
    const open = new Set(keyed('details[open]'));
    const [focused] = keyed('details:has(> summary:focus)');
    section.replaceChildren(...children);
    for (const details of section.querySelectorAll('details')) {
      details.open = open.has(details.dataset.key);
      if (details.dataset.key === focused) details.firstChild.focus();
    }
  }

  say(text, isProblem = false) {
    this.said.textContent = text;
    this.said.classList.toggle('problem', isProblem);
  }

  contactPart(identityId, links, inForce) {
    if (!identityId) return [element('h3', {}, 'Contact'), element('p', { class: 'soft' }, 'This visitor has no identity yet. Only an identity can be linked to a contact.')];
    const input = element('input', { name: 'contact', required: true, autocomplete: 'off' });
    const isLinked = inForce && inForce.status === 'linked';
    const candidates = inForce && inForce.status === 'ambiguous' ? inForce.candidateContactIds : [];
    const link = (contactId) => this.change(identityId, `Linked to ${contactId}.`, { method: 'PUT', body: { contactId } });
    const unlink = () => this.change(identityId, 'Unlinked.', { method: 'DELETE' });
    const send = (event) => {
      event.preventDefault();
      link(input.value.trim());
    };
    return [
      element('h3', {}, 'Contact of ', element('bdi', {}, identityId)),
      element('p', {}, standing(inForce)),
      element('p', { class: 'choices' }, candidates.map((contactId) => quiet(`Link to ${contactId}`, () => link(contactId)))),
      element('form', { class: 'link', onsubmit: send },
        element('label', {}, isLinked ? 'Link to another contact' : 'Link to contact', input),
        element('button', {}, 'Link'),
        isLinked ? quiet('Unlink', unlink) : ''),
      linkTable(links),
    ];
  }

  async change(identityId, did, options) {
    this.say('');
    try {
      await ask(path(['/api/v1/identities/', '/contact'], identityId), options);
      this.title.focus(); // the focused element is drawn again
      this.say(did);
      this.changed();
      await this.refresh();
    } catch (problem) {
      this.say(problem.status === 404 ? 'This contact does not exist. Check its id.' : problem.message, true);
    }
  }
}

function quiet(text, onclick) {
  return element('button', { type: 'button', class: 'quiet', onclick }, text);
}

/** undefined for a 404. */
function unlessMissing(problem) {
  if (problem instanceof Problem && problem.status === 404) return undefined;
  throw problem;
}

function now(visitor, explained) {
  const found = visitor || explained;
  if (!found) return [element('p', { class: 'soft' }, 'This visit is unknown. If it has just begun, try again in a few seconds.')];
  const facts = [
    ['Identity', found.identityId],
    ['Site', found.site],
    ['Last event', visitor && moment(visitor.lastEventTime)],
    ['Session', visitor && visitor.sessionId && shortened(visitor.sessionId)],
    ['Device', visitor && visitor.globalVisitId && shortened(visitor.globalVisitId)],
  ];
  return [
    element('p', { class: 'state' }, badge(found.state), visitor ? '' : element('span', { class: 'soft' }, ' when last seen')),
    element('dl', {}, facts.filter(([, value]) => value).flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, value)])),
  ];
}

function timeline(explained) {
  const steps = explained ? explained.transitions : [];
  return [
    element('h3', {}, 'Evidence'),
    steps.length ? element('ol', { class: 'steps' }, steps.map(step)) : element('p', { class: 'soft' }, 'No event has identified this visitor.'),
  ];
}

function step({ rule, effect, assurance, assuranceReason, evidence, before, after }) {
  const [{ eventName, eventTime, eventId }] = evidence;
  return element('li', {},
    element('p', {}, moment(eventTime), ' ', element('strong', {}, eventName), ' ', shortened(eventId)),
    element('p', {}, badge(before.state), ' → ', badge(after.state), ' ', element('bdi', {}, after.identityId || '')),
    element('p', { class: 'soft' }, `${rule}: ${effect}`),
    assurance ? element('p', { class: 'soft' }, element('span', { class: `assurance ${assurance}` }, assurance), assuranceReason ? ` (${assuranceReason})` : '') : '');
}

function pageTable(pages) {
  return [
    element('h3', {}, 'Pages'),
    pages ? table(['Entered', 'Page', 'Stayed'], pages.toReversed().map((page) => [
      moment(page.startDate),
      element('span', { title: page.url || '' }, page.title || place(page.url || '')),
      page.endDate ? duration(page.duration) : 'still open',
    ])) : element('p', { class: 'soft' }, 'None.'),
  ];
}

function eventTable(events) {
  return [
    element('h3', {}, 'Events'),
    events ? table(['At', 'Event', 'Page', 'Data'], events.toReversed().map((event) => [
      moment(event.timestamp),
      element('span', { class: 'name', title: event.eventName }, event.eventName || 'erased'),
      element('span', { title: event.url || '' }, place(event.url || '')),
      dataOf(event),
    ])) : element('p', { class: 'soft' }, 'No events are stored yet.'),
    events && events.length === MOST_EVENTS ? element('p', { class: 'soft' }, `Only the first ${MOST_EVENTS} events are shown.`) : '',
  ];
}

function dataOf({ eventID, data }) {
  const keys = Object.keys(data);
  if (!keys.length) return '';
  return element('details', { 'data-key': eventID }, element('summary', {}, keys.join(', ')), element('pre', {}, JSON.stringify(data, null, 2)));
}

function standing(inForce) {
  if (!inForce) return ['Not linked: no contact matches.'];
  if (inForce.status === 'linked') {
    const by = inForce.rule === 'manual' ? inForce.actor : `the rule ${inForce.rule}`;
    return ['Linked to ', element('strong', {}, inForce.contactId), ` by ${by}.`];
  }
  if (inForce.status === 'ambiguous') return [`Several contacts match by the rule ${inForce.rule}. Choose one.`];
  return [`Unlinked by ${inForce.actor}.`];
}

function linkTable(links) {
  if (!links || !links.links.length) return '';
  const rows = links.links.map((link) => [
    moment(link.createTime),
    link.endTime === null ? `${link.status}, in force` : link.status,
    link.contactId || link.candidateContactIds.join(', '),
    [link.rule, ...link.evidence.map(({ assurance }) => assurance)].filter(Boolean).join(', '),
    link.actor,
  ]);
  return element('details', { 'data-key': 'links' }, element('summary', {}, 'All link decisions'), table(['When', 'What', 'Contact', 'Rule', 'By'], rows));
}

function personPart(person, visitId, open) {
  if (!person) return [];
  const { contact, identities } = person;
  const name = [contact.title, contact.firstName, contact.lastName].filter(Boolean).join(' ');
  return [
    element('h3', {}, 'Person'),
    element('p', {}, element('strong', {}, name || contact.contactId), ' ', [...contact.emailAddresses, ...contact.phoneNumbers].join(', ')),
    table(['Identity', 'Visits'], identities.map(({ identityId, visitIds }) => [
      identityId,
      element('span', { class: 'choices' }, (visitIds || []).map((id) => (
        id === visitId ? element('span', { class: 'soft' }, 'this') : quiet(shortened(id), () => open(id))))),
    ])),
  ];
}

function table(heads, rows) {
  return element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': heads.join(', ') }, element('table', {},
    element('thead', {}, element('tr', {}, heads.map((head) => element('th', { scope: 'col' }, head)))),
    element('tbody', {}, rows.map((cells) => element('tr', {}, cells.map((cell) => element('td', {}, cell)))))));
}
