// One box on every view that finds contacts, identities and visits, and says whether they are on the site now.

import { Problem, ask, path, query } from './api.js';
import { contactsAddress, personAddress, visitAddress, visitIdOf } from './addresses.js';
import { filterOf, nameOf } from './contacts.js';
import { STATES, element } from './dom.js';
import { lastSeen, pastOf, where } from './presence.js';
import { figure, t } from './text.js';

const WAIT_MS = 250; // after the last key
const PATIENCE_MS = 2000; // for parts that are slow to answer, after Enter
const LEAST = 2; // characters
const MOST = 8; // of each kind
const CODE = /^\d{6}$/;
const ALL_PRESENCES = ['PRESENT', 'LEFT', 'ENDED'];

export class Search {
  /**
   * Calls `go(address)` for what the user chooses. `onSite(text, most)` finds among the visitors of the list.
   * `nameOf(contactId)`: a name, if known.
   */
  constructor({ input, found, go, onSite, nameOf }) {
    Object.assign(this, { input, found, go, onSite, nameOf });
    this.asking = new AbortController();
    this.options = new Map(); // by key: what was found, in the order of the list
    this.notes = new Set();
    this.presences = new Map(); // by contact: the question where the contact is
    this.active = -1;
    this.isAsking = false;
    input.addEventListener('input', () => this.type());
    input.addEventListener('keydown', (event) => this.key(event));
    input.addEventListener('focus', () => this.options.size && this.show());
    found.addEventListener('click', (event) => this.choose(event));
    document.addEventListener('keydown', (event) => this.focusByKey(event));
    document.addEventListener('pointerdown', (event) => event.target.closest('.search') || this.hide());
    input.form.addEventListener('focusout', (event) => input.form.contains(event.relatedTarget) || this.hide());
    input.form.addEventListener('submit', (event) => event.preventDefault());
  }

  focusByKey(event) {
    const isTyping = event.target.closest('input, textarea, select, [contenteditable]');
    if (event.key !== '/' || isTyping || event.ctrlKey || event.metaKey || event.altKey || this.input.offsetParent === null) return;
    event.preventDefault();
    this.input.select();
    this.input.focus();
  }

  type() {
    this.stop();
    this.asking = new AbortController();
    const text = this.input.value.trim();
    this.clear();
    this.isAsking = text.length >= LEAST;
    this.draw();
    if (!this.isAsking) {
      this.hide();
      return;
    }
    this.waiting = setTimeout(() => this.ask(text), WAIT_MS);
  }

  /** Ask all that may know this text. What one of them finds is shown when it arrives. */
  async ask(text) {
    const { signal } = this.asking;
    for (const visitor of this.onSite(text, MOST)) this.add(ofVisitor(visitor));
    await Promise.all(this.questions(text, signal).map((question) => question.catch((problem) => {
      if (signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      this.note(problem.message);
    })));
    if (signal.aborted) return;
    this.isAsking = false;
    this.draw();
    if (this.isWanted) this.enter();
  }

  questions(text, signal) {
    if (visitIdOf(text)) return [this.visit(visitIdOf(text), signal)];
    const asked = [this.identity(text, signal)];
    if (CODE.test(text)) this.add({ key: 'code', name: t('Code {code}', { code: text }), detail: t('that a visitor reads out; it can be used once'), open: () => this.code(text) });
    if (/[\p{L}\d]/u.test(text)) asked.push(this.contacts(text, signal));
    return asked;
  }

  async visit(visitId, signal) {
    const live = await ask(path(['/api/v1/visits/', '/visitor'], visitId), { signal }).catch(unlessMissing);
    if (live) {
      this.add(ofVisitor(live));
      return;
    }
    const visit = await ask(path(['/server/data/visits/', ''], visitId), { signal }).catch(unlessMissing);
    if (!visit || signal.aborted) return;
    this.add({ key: visitId, name: t('Visit {id}', { id: visitId.slice(0, 8) }), detail: visitId, address: visitAddress(visitId), presence: lastSeen(visit.endDate || visit.startDate) });
  }

  async contacts(text, signal) {
    const answer = await ask(`/api/v1/contacts${query({ ...filterOf(text), page_size: MOST })}`, { signal });
    if (signal.aborted) return;
    if (answer.nextPageToken && answer.contacts.length) this.add({ key: 'all', isLast: true, name: t('All contacts found'), detail: t('Only the first {count} contacts are shown.', { count: figure(answer.contacts.length) }), address: contactsAddress(text) });
    await Promise.all(answer.contacts.map((contact) => {
      this.add(ofContact(contact));
      return this.presence(contact.contactId, signal);
    }));
  }

  /** Say where a contact is, or was last. */
  presence(contactId, signal) {
    if (!this.presences.has(contactId)) this.presences.set(contactId, this.findContact(contactId, signal));
    return this.presences.get(contactId);
  }

  async findContact(contactId, signal) {
    const asked = { contactId, presence: ALL_PRESENCES, page_size: 100 };
    const live = await ask(`/api/v1/visitors${query(asked)}`, { signal });
    const [latest] = live.visitors.sort((one, other) => rank(one) - rank(other) || other.lastEventTime - one.lastEventTime);
    if (latest) this.change(contactId, where(latest));
    else this.change(contactId, { presence: await pastOf(contactId, signal) });
  }

  async identity(text, signal) {
    const context = await ask(`/api/v1/context${query({ identityId: text })}`, { signal });
    if (signal.aborted || context.status === 'none') return;
    const [identity] = context.identities;
    if (context.contact) {
      this.add(ofContact(context.contact));
      await this.presence(context.contact.contactId, signal);
      return;
    }
    if (!identity) return;
    const [visit] = context.visits;
    const [last] = context.pages;
    const seen = last ? lastSeen(last.page.endDate || last.page.startDate) : [];
    this.add({
      key: `identity ${text}`, name: identity.name || text, detail: context.status === 'ambiguous' ? t('several contacts match') : t('no contact'), about: text,
      address: personAddress(text), ...(visit ? where(visit.visitor) : { presence: seen }),
    });
  }

  /** Use the code that a visitor reads out. */
  async code(text) {
    this.clear();
    try {
      const context = await ask(`/api/v1/context${query({ code: text })}`);
      const [visit] = context.visits;
      if (visit) {
        this.leave(visitAddress(visit.visitor.visitId));
        return;
      }
      this.note(t('No visit has this code, or the code has been used.'));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.note(problem.message);
    }
    this.draw();
  }

  add(option) {
    if (this.options.has(option.key)) return;
    for (const [key, { visitId, contactId }] of this.options) {
      if ((visitId && visitId === option.visitId) || (contactId && contactId === option.key)) this.options.delete(key); // the same person
    }
    this.options.set(option.key, option);
    this.draw();
  }

  change(key, more) {
    const option = this.options.get(key);
    if (!option) return;
    Object.assign(option, more);
    this.draw();
  }

  note(text) {
    this.notes.add(text);
    this.draw();
  }

  clear() {
    this.options.clear();
    this.notes.clear();
    this.presences.clear();
    this.active = -1;
  }

  draw() {
    const options = [...this.options.values()].sort((one, other) => nearness(one) - nearness(other));
    const made = options.map((option, number) => element('li', { role: 'none', 'data-key': option.key }, element('a', {
      id: `found-${number}`, role: 'option', 'aria-selected': String(number === this.active), href: option.address, tabindex: '-1',
    },
      element('span', { class: 'about' }, this.names(option), element('span', { class: 'soft' }, option.detail)),
      element('span', { class: option.isHere ? 'here' : 'soft' }, option.presence || ''))));
    this.found.firstElementChild.replaceChildren(...made);
    this.found.lastElementChild.replaceChildren(...this.words(options.length));
    this.input.setAttribute('aria-activedescendant', this.active >= 0 ? `found-${this.active}` : '');
    if (this.input === document.activeElement) this.show();
  }

  /** The name of a contact may arrive after the visitor was found. */
  names({ contactId, name, about }) {
    const found = contactId && this.nameOf(contactId);
    const beside = found ? name : about;
    return [element('strong', {}, found || name), beside ? element('bdi', {}, beside) : ''];
  }

  words(count) {
    const notes = [...this.notes].map((text) => element('p', {}, text));
    if (this.isAsking) return [...notes, element('p', {}, t('Searching…'))];
    if (count) return [...notes, element('p', { class: 'unseen' }, t('{count} found.', { count: figure(count) }))];
    if (notes.length) return notes;
    return [element('p', {}, t('Nobody is found with “{text}”. An e-mail address, a number and an id have to be whole; a name need only be begun.', { text: this.input.value.trim() }))];
  }

  show() {
    this.found.hidden = false;
    this.input.setAttribute('aria-expanded', 'true');
  }

  hide() {
    this.found.hidden = true;
    this.input.setAttribute('aria-expanded', 'false');
  }

  key(event) {
    const rows = this.found.firstElementChild.children.length;
    if (event.key === 'Escape') {
      event.stopPropagation();
      if (this.found.hidden) this.input.value = '';
      this.stop();
      this.hide();
    } else if (event.key === 'Enter') {
      event.preventDefault();
      this.enter();
    } else if (['ArrowDown', 'ArrowUp'].includes(event.key) && rows) {
      event.preventDefault();
      this.active = (this.active + (event.key === 'ArrowDown' ? 1 : rows + (this.active < 0 ? 0 : -1))) % rows;
      this.draw();
      this.found.querySelector('[aria-selected="true"]').scrollIntoView({ block: 'nearest' });
    }
  }

  /** Open the chosen option, or the first one when all have answered or have had time to. */
  enter() {
    if (this.active < 0 && this.isAsking) {
      this.isWanted = true;
      clearTimeout(this.hurrying);
      this.hurrying = setTimeout(() => this.isWanted && this.openFirst(), PATIENCE_MS);
    } else {
      this.openFirst();
    }
  }

  openFirst() {
    const [...rows] = this.found.firstElementChild.children;
    const row = rows[Math.max(0, this.active)];
    if (row) this.openOption(row.dataset.key);
  }

  choose(event) {
    const row = event.target.closest('li');
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.openOption(row.dataset.key);
  }

  openOption(key) {
    const option = this.options.get(key);
    if (option.open) option.open();
    else this.leave(option.address);
  }

  leave(address) {
    this.stop();
    this.input.value = '';
    this.clear();
    this.hide();
    this.go(address);
  }

  stop() {
    this.asking.abort();
    clearTimeout(this.waiting);
    clearTimeout(this.hurrying);
    this.isAsking = this.isWanted = false;
  }
}

/** Who is on the site now comes first; what uses something up, and the way to all, come last. */
function nearness({ isHere, open, isLast }) {
  return isHere ? 0 : isLast ? 3 : open ? 2 : 1;
}

function ofVisitor(visitor) {
  const { visitId, identityId, contactId, state } = visitor;
  return {
    key: visitId, address: visitAddress(visitId), name: identityId || t('Visitor {id}', { id: visitId.slice(0, 8) }), detail: [STATES[state], contactId].filter(Boolean).join(', '),
    contactId, ...where(visitor),
  };
}

function ofContact(contact) {
  const { contactId, emailAddresses, phoneNumbers } = contact;
  return {
    key: contactId, name: nameOf(contact), about: [emailAddresses[0], phoneNumbers[0]].filter(Boolean).join(', '), detail: contactId,
    address: personAddress(contactId),
  };
}

function rank(visitor) {
  return ALL_PRESENCES.indexOf(visitor.presence);
}

/** undefined for a 404. */
function unlessMissing(problem) {
  if (problem instanceof Problem && problem.status === 404) return undefined;
  throw problem;
}
