// The view of contacts: who has a name, address, number or id, or is on the site now, with their identities and where each
// was seen last; and the links that a person should look at.

import { Problem, ask, path, query } from './api.js';
import { SHOWN, contactsAddress, personAddress } from './addresses.js';
import { contactPage, contactsOf, nameOf } from './contacts.js';
import { element, hasText, whenTyped } from './dom.js';
import { decisionOf, doubtCount, doubtItem, doubtPage } from './doubts.js';
import { patchChildren } from './patch.js';
import { lastSeen, pastOf, where } from './presence.js';
import { Source, troubleOf } from './source.js';
import { counted, figure, t } from './text.js';
import { Undo } from './undo.js';

const PAGE = 25;
const LARGEST = 1000; // the API's largest page
const MOST_EMPTY = 5; // pages without contacts that are read in a row: the API examines a part of them at a time
const MOST_VALUES = 2; // addresses and numbers of a contact that are shown
const MOST_IDENTITIES = 20; // that the API gives in a context
const NEEDED = ['contact', 'identities', 'visits', 'pages']; // parts of a context without which it does not say who is where
const HEADS = [t('Name'), t('Id'), t('E-mail'), t('Phone'), t('Identities'), t('Last seen')];
/** What is shown without a text, in words. */
export const SHOWN_WORDS = {
  here: t('on the site now'), ambiguous: t('ambiguous'), recognized_only: t('looks alike'), by_name: t('by name only'),
};

export class DirectoryView {
  /**
   * `close()`: leaves the view. `go(address, options)`: goes to a view. `may(scope)`, `seesAll()`: of the caller, whether
   * of all websites. `failed(words)`: after a link could not be changed, when the view is no longer shown.
   */
  constructor(root, { close, go, may, seesAll, failed }) {
    Object.assign(this, { root, go, may, seesAll });
    this.forget();
    this.undo = new Undo({
      failed: (problem) => {
        const words = t('Not done: {trouble}', { trouble: troubleOf(problem, 'identity') });
        if (this.root.hidden) failed(words);
        else this.say(words, true);
      },
      changed: () => this.decided(),
    });
    this.appearing = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) if (isIntersecting) this.askAbout(target.dataset.key);
    });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !hasText(event.target)) close();
    });
    root.addEventListener('click', (event) => {
      const button = event.target.closest('button');
      const row = event.target.closest('tr[data-key]');
      if (button?.dataset.do === 'close') close();
      if (button?.dataset.do === 'more') this.read();
      if (button?.dataset.show) go(contactsAddress('', button.dataset.show === this.shown ? '' : button.dataset.show), { replace: true });
      if (['link', 'unlink'].includes(button?.dataset.do)) this.decide(button);
      if (!row) return;
      this.chosen = row.dataset.key;
      if (!event.target.closest('a') && getSelection().isCollapsed) go(personAddress(this.chosen));
    });
  }

  /** Forget what was shown. */
  forget() {
    this.text = this.shown = this.chosen = undefined;
    this.found = []; // contacts, or identities in doubt
    this.about = new Map(); // by contact: the question where the contact is; by identity: that for its decision
  }

  /** Show the contacts that a `text` may mean, or without it those of `show`, one of SHOWN; undefined: hide the view. */
  show(asked) {
    const isOther = asked && (asked.text !== this.text || asked.show !== this.shown);
    if (!asked ? this.root.hidden : !this.root.hidden && !isOther) return;
    this.undo.commit();
    this.leaving?.abort();
    this.stopWaiting?.();
    document.body.classList.toggle('has-contacts', Boolean(asked));
    if (!asked) {
      this.appearing.disconnect();
      this.root.hidden = true;
      this.root.replaceChildren();
      return;
    }
    if (isOther) this.forget();
    this.text = asked.text;
    this.shown = asked.show;
    const isNew = this.root.hidden;
    this.root.hidden = false; // what is hidden takes no focus
    if (isNew) this.build();
    if (this.input !== document.activeElement) this.input.value = this.text;
    this.table.hidden = this.isInDoubt;
    this.drawShown();
    this.readAgain();
  }

  /** Whether links in doubt are shown, and not contacts. */
  get isInDoubt() {
    return Boolean(this.shown) && this.shown !== 'here';
  }

  build() {
    this.title = element('h2', { tabindex: '-1' }, t('Contacts'));
    this.input = element('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', maxlength: '512', 'aria-label': t('Find a contact'), placeholder: t('Name, e-mail address, number or id') });
    this.stopWaiting = whenTyped(this.input, () => this.find());
    this.shows = element('p', { class: 'shows' });
    this.counts = {};
    this.said = element('p', { role: 'status' });
    this.rows = element('tbody');
    this.items = element('ul', { class: 'doubts' });
    this.table = element('table', {}, element('caption', { class: 'unseen' }, t('Contacts')), element('thead', {}, element('tr', {}, HEADS.map((head) => element('th', { scope: 'col' }, head)))), this.rows);
    this.more = element('button', { type: 'button', class: 'quiet', 'data-do': 'more' }, t('More'));
    this.root.append(
      element('div', { class: 'bar' }, this.title, this.input, element('button', { type: 'button', class: 'quiet', 'data-do': 'close' }, t('Close'))),
      this.shows, this.said, this.undo.root, this.table, this.items, this.more,
    );
    this.title.focus();
  }

  find() {
    this.go(contactsAddress(this.input.value.trim()), { replace: true });
  }

  drawShown() {
    patchChildren(this.shows, SHOWN.filter((one) => one === 'here' || this.seesAll()).map((one) => (
      element('button', { type: 'button', class: 'total', 'data-key': one, 'data-show': one, 'aria-pressed': String(one === this.shown) },
        SHOWN_WORDS[one], this.counts[one] === undefined ? '' : ` (${this.counts[one]})`))));
  }

  async countDoubts() {
    if (!this.seesAll()) return;
    const { signal } = this.leaving;
    await Promise.all(SHOWN.filter((one) => one !== 'here').map(async (one) => {
      const count = await doubtCount(one, signal);
      if (!signal.aborted) this.counts[one] = count;
    }));
    if (!signal.aborted) this.drawShown();
  }

  /** Read from the beginning, as much as was shown: who comes back finds the same place. */
  readAgain() {
    this.leaving?.abort();
    this.appearing.disconnect();
    this.leaving = new AbortController();
    const most = Math.min(LARGEST, Math.max(PAGE, this.found.length));
    this.found = [];
    this.next = '';
    this.about = new Map();
    this.countDoubts();
    this.read(most);
  }

  /** Read the next page. */
  async read(most = PAGE) {
    const { signal } = this.leaving;
    this.more.hidden = true;
    this.say(t('Searching…'));
    try {
      let found = [];
      for (let turn = 0; turn < MOST_EMPTY && !found.length && this.next !== null; turn += 1) {
        const page = await this.page({ page_size: most, page_token: this.next }, signal);
        if (signal.aborted) return;
        found = page.found;
        this.next = page.next;
      }
      this.found.push(...found);
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

  async page(page, signal) {
    if (this.isInDoubt) {
      const { identities, nextPageToken } = await doubtPage(this.shown, page, signal);
      return { found: identities, next: nextPageToken };
    }
    if (this.shown === 'here') {
      const { visitors, nextPageToken } = await ask(`/api/v1/visitors${query({ state: ['AUTHENTICATED', 'RECOGNIZED'], ...page })}`, { signal });
      const known = new Set(this.found.map(({ contactId }) => contactId));
      const ids = [...new Set(visitors.map(({ contactId }) => contactId))].filter((id) => id && !known.has(id));
      return { found: await contactsOf(ids, signal, ids.length), next: nextPageToken };
    }
    const { contacts, nextPageToken } = await contactPage(this.text, page, signal);
    return { found: contacts, next: nextPageToken };
  }

  words() {
    const count = figure(this.found.length);
    const { next, isInDoubt } = this;
    if (next !== null && isInDoubt) return t('Only the first {count} identities are shown.', { count });
    if (next !== null) return this.found.length ? t('Only the first {count} contacts are shown.', { count }) : t('No contact is found yet; there are more to look at.');
    if (this.found.length) return t('{count} found.', { count });
    if (isInDoubt) return t('No link is in doubt for this reason.');
    if (this.shown) return t('No contact is on the site now.');
    return this.text ? t('No contact has this name, address, number or id.') : t('There are no contacts.');
  }

  say(words, isProblem = false) {
    this.said.textContent = words;
    this.said.className = isProblem ? 'problem' : 'soft';
  }

  /** Ask where a contact is, or what was decided about an identity, when its row comes into sight. */
  askAbout(id) {
    if (this.root.hidden || this.about.has(id)) return;
    const { signal } = this.leaving;
    const [service, question] = this.isInDoubt ? ['identity', decisionOf] : ['identity or history', whereabouts];
    const source = new Source({ service, ask: (of) => question(of, signal), changed: () => signal.aborted || this.draw(), signal });
    this.about.set(id, source);
    source.about(id);
  }

  /** Take a change of a visitor of the live stream. */
  tell({ contactId }) {
    if (!this.root.hidden) this.about.get(contactId)?.load();
  }

  draw() {
    patchChildren(this.rows, this.isInDoubt ? [] : this.found.map((contact) => this.row(contact)));
    const mayLink = this.may('contacts') && !this.undo.isWaiting;
    patchChildren(this.items, this.isInDoubt ? this.found.map((one) => doubtItem(one, this.about.get(one.identityId), mayLink)) : []);
    for (const row of [...this.rows.children, ...this.items.children]) this.appearing.observe(row);
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

  /** Link an identity to a contact, or unlink it, as a button says. */
  decide(button) {
    const { do: what, contact: contactId, name } = button.dataset;
    const address = path(['/api/v1/identities/', '/contact'], button.closest('[data-identity]').dataset.identity);
    const [words, options] = what === 'link'
      ? [t('Will be linked to {name}.', { name }), { method: 'PUT', body: { contactId } }]
      : [t('Will be unlinked from {name}.', { name }), { method: 'DELETE' }];
    this.undo.offer(words, () => ask(address, options));
    this.draw();
  }

  /** After a decision was sent or undone. */
  decided() {
    if (this.root.hidden) return;
    if (!this.root.contains(document.activeElement)) this.title.focus();
    this.readAgain();
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
