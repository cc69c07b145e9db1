// The view of contacts: who has a name, address, number or id, with their identities and where each was seen last.

import { Problem, ask, query } from './api.js';
import { contactsAddress, personAddress } from './addresses.js';
import { contactPage, nameOf } from './contacts.js';
import { element, hasText, whenTyped } from './dom.js';
import { patchChildren } from './patch.js';
import { lastSeen, pastOf, where } from './presence.js';
import { Source, troubleOf } from './source.js';
import { counted, figure, t } from './text.js';

const PAGE = 25;
const LARGEST = 1000; // the API's largest page
const MOST_EMPTY = 5; // pages without contacts that are read in a row: the API examines a part of them at a time
const MOST_VALUES = 2; // addresses and numbers of a contact that are shown
const MOST_IDENTITIES = 20; // that the API gives in a context
const NEEDED = ['contact', 'identities', 'visits', 'pages']; // parts of a context without which it does not say who is where
const HEADS = [t('Name'), t('Id'), t('E-mail'), t('Phone'), t('Identities'), t('Last seen')];

export class DirectoryView {
  /** `close()`: leaves the view. `go(address, options)`: goes to a view. */
  constructor(root, { close, go }) {
    Object.assign(this, { root, go });
    this.forget();
    this.appearing = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) if (isIntersecting) this.askAbout(target.dataset.key);
    });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !hasText(event.target)) close();
    });
    root.addEventListener('click', (event) => {
      const row = event.target.closest('tr[data-key]');
      if (event.target.closest('[data-do="close"]')) close();
      if (event.target.closest('[data-do="more"]')) this.read();
      if (!row) return;
      this.chosen = row.dataset.key;
      if (!event.target.closest('a') && getSelection().isCollapsed) go(personAddress(this.chosen));
    });
  }

  /** Forget what was shown. */
  forget() {
    this.text = this.chosen = undefined;
    this.contacts = [];
    this.about = new Map(); // by contact: the question where the contact is
  }

  /** Show the contacts that a text may mean; undefined: hide the view. */
  show(text) {
    const isOther = text !== undefined && text !== this.text;
    if (text === undefined ? this.root.hidden : !this.root.hidden && !isOther) return;
    this.leaving?.abort();
    this.stopWaiting?.();
    this.appearing.disconnect();
    document.body.classList.toggle('has-contacts', text !== undefined);
    if (text === undefined) {
      this.root.hidden = true;
      this.root.replaceChildren();
      return;
    }
    this.leaving = new AbortController();
    const most = isOther ? PAGE : Math.min(LARGEST, Math.max(PAGE, this.contacts.length)); // who comes back finds the same place
    if (isOther) this.forget();
    this.text = text;
    const isNew = this.root.hidden;
    this.root.hidden = false; // what is hidden takes no focus
    if (isNew) this.build();
    if (this.input !== document.activeElement) this.input.value = text;
    this.contacts = [];
    this.next = '';
    this.about = new Map();
    this.read(most);
  }

  build() {
    this.title = element('h2', { tabindex: '-1' }, t('Contacts'));
    this.input = element('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', maxlength: '512', 'aria-label': t('Find a contact'), placeholder: t('Name, e-mail address, number or id') });
    this.stopWaiting = whenTyped(this.input, () => this.find());
    this.said = element('p', { role: 'status' });
    this.rows = element('tbody');
    this.more = element('button', { type: 'button', class: 'quiet', 'data-do': 'more' }, t('More'));
    this.root.append(
      element('div', { class: 'bar' }, this.title, this.input, element('button', { type: 'button', class: 'quiet', 'data-do': 'close' }, t('Close'))),
      this.said,
      element('table', {}, element('caption', { class: 'unseen' }, t('Contacts')), element('thead', {}, element('tr', {}, HEADS.map((head) => element('th', { scope: 'col' }, head)))), this.rows),
      this.more,
    );
    this.title.focus();
  }

  find() {
    this.go(contactsAddress(this.input.value.trim()), { replace: true });
  }

  /** Read the next page. */
  async read(most = PAGE) {
    const { signal } = this.leaving;
    this.more.hidden = true;
    this.say(t('Searching…'));
    try {
      let found = [];
      for (let turn = 0; turn < MOST_EMPTY && !found.length && this.next !== null; turn += 1) {
        const answer = await contactPage(this.text, { page_size: most, page_token: this.next }, signal);
        if (signal.aborted) return;
        found = answer.contacts;
        this.next = answer.nextPageToken;
      }
      this.contacts.push(...found);
      this.say(this.words());
    } catch (problem) {
      if (signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      this.say(troubleOf(problem, 'identity'), true);
    }
    const isFirst = !this.rows.childElementCount;
    this.draw();
    const chosen = isFirst && this.title === document.activeElement && [...this.rows.children].find((row) => row.dataset.key === this.chosen);
    if (chosen) chosen.querySelector('a').focus();
  }

  words() {
    const count = figure(this.contacts.length);
    if (this.next !== null) return this.contacts.length ? t('Only the first {count} contacts are shown.', { count }) : t('No contact is found yet; there are more to look at.');
    if (this.contacts.length) return t('{count} found.', { count });
    return this.text ? t('No contact has this name, address, number or id.') : t('There are no contacts.');
  }

  say(words, isProblem = false) {
    this.said.textContent = words;
    this.said.className = isProblem ? 'problem' : 'soft';
  }

  /** Ask where a contact is, when its row comes into sight. */
  askAbout(contactId) {
    if (this.root.hidden || this.about.has(contactId)) return;
    const { signal } = this.leaving;
    const source = new Source({ service: 'identity or history', ask: (id) => whereabouts(id, signal), changed: () => signal.aborted || this.draw(), signal });
    this.about.set(contactId, source);
    source.about(contactId);
  }

  /** Take a change of a visitor of the live stream. */
  tell({ contactId }) {
    if (!this.root.hidden) this.about.get(contactId)?.load();
  }

  draw() {
    patchChildren(this.rows, this.contacts.map((contact) => this.row(contact)));
    for (const row of this.rows.children) this.appearing.observe(row);
    this.more.hidden = this.next === null;
  }

  row(contact) {
    const { contactId, emailAddresses, phoneNumbers } = contact;
    const { answer, trouble } = this.about.get(contactId) || {};
    return element('tr', { 'data-key': contactId },
      element('th', { scope: 'row' }, element('a', { href: personAddress(contactId) }, element('bdi', {}, nameOf(contact)))),
      element('td', {}, element('code', {}, contactId)),
      element('td', {}, several(emailAddresses)),
      element('td', {}, several(phoneNumbers)),
      element('td', {}, answer ? identityWords(answer.count) : '…'),
      element('td', {}, trouble ? element('span', { class: 'problem' }, trouble) : answer ? seenWords(answer) : '…'));
  }
}

/** How many identities a contact has, and where the contact is or was. Throws a Problem. */
async function whereabouts(contactId, signal) {
  const { identities, visits, pages, unavailableParts } = await ask(`/api/v1/context${query({ contactId })}`, { signal });
  if (unavailableParts.some((part) => NEEDED.includes(part))) throw new Problem(503, '');
  const count = identities.length;
  if (visits.length) return { count, ...where(visits[0].visitor) };
  if (pages.length) return { count, presence: lastSeen(pages[0].page.endDate || pages[0].page.startDate) };
  if (!count) return { count, presence: [t('not seen yet')] };
  return { count, presence: await pastOf(contactId, signal, { page_size: MOST_IDENTITIES }) };
}

function identityWords(count) {
  return count < MOST_IDENTITIES ? counted(count, 'identity', 'identities') : t('{count} or more identities', { count: figure(count) });
}

function seenWords({ isHere, presence, address }) {
  if (!presence.length) return none();
  return address ? element('a', { class: isHere ? 'here' : 'soft', href: address }, presence) : element('span', { class: 'soft' }, presence);
}

/** The first values, and how many more there are. */
function several(values) {
  if (!values.length) return none();
  const shown = values.slice(0, MOST_VALUES).map((value) => [element('bdi', {}, value), ' ']);
  const more = values.length - MOST_VALUES;
  return [shown, more > 0 ? element('span', { class: 'soft' }, t('{count} more', { count: figure(more) })) : ''];
}

function none() {
  return element('span', { class: 'soft' }, '–');
}
