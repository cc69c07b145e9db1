// Contacts as people choose them: by name, address and number, with what differs between them.

import { Problem, ask, query } from './api.js';
import { element, whenTyped } from './dom.js';
import { patchChildren } from './patch.js';
import { troubleOf } from './source.js';
import { figure, parts, t } from './text.js';

const MOST_FOUND = 10;
const MOST_IDS = 50; // that the API takes in a query
const LONGEST = 12000; // of a query: the API’s longest address is longer
const PHONE = /^[+(\d][\d\s()./-]{4,}$/;

/** The name of a contact; its id if it has none. */
export function nameOf({ title, firstName, lastName, contactId }) {
  return [title, firstName, lastName].filter(Boolean).join(' ') || contactId;
}

/** The filter of contacts by a text: an e-mail address, a number, else the beginning of a name. */
export function filterOf(text) {
  return { [text.includes('@') ? 'email' : PHONE.test(text) ? 'phone' : 'name']: text };
}

/**
 * A page of the contacts that a text may mean: by e-mail address, number, name or id; of all contacts if there is no
 * text. `page`: its size and token. Throws a Problem.
 */
export async function contactPage(text, page, signal) {
  let refused;
  const answer = await ask(`/api/v1/contacts${query({ ...filterOf(text), ...page })}`, { signal }).catch((problem) => {
    if (!(problem instanceof Problem) || problem.status !== 400) throw problem;
    refused = problem; // no number, but it may be an id
    return { contacts: [], nextPageToken: null };
  });
  if (!text || answer.contacts.length || answer.nextPageToken || page.page_token) return answer;
  const contacts = /\s/.test(text) ? [] : await contactsOf([text], signal);
  if (refused && !contacts.length) throw refused;
  return { contacts, nextPageToken: null };
}

/** Those of these contacts that exist, in this order: of the first `most`. Throws a Problem. */
export async function contactsOf(ids, signal, most = MOST_FOUND) {
  const wanted = ids.slice(0, most);
  const known = new Map();
  for (const group of groups(wanted)) {
    let next = '';
    do { // a page is short when contacts are large
      const answer = await ask(`/api/v1/contacts${query({ contactId: group, page_size: MOST_IDS, page_token: next })}`, { signal });
      for (const contact of answer.contacts) known.set(contact.contactId, contact);
      next = answer.nextPageToken;
    } while (next);
  }
  return wanted.map((id) => known.get(id)).filter(Boolean);
}

/** These ids in groups that fit into a query each. */
export function groups(ids) {
  const made = [];
  let room = 0;
  for (const id of ids) {
    const length = `&contactId=${encodeURIComponent(id)}`.length;
    if (room < length || made.at(-1).length === MOST_IDS) {
      made.push([]);
      room = LONGEST;
    }
    made.at(-1).push(id);
    room -= length;
  }
  return made;
}

/** Contacts to choose from, each with a button; values that not all of them have stand out. */
export function choices(contacts) {
  const shared = (values) => values.reduce((all, of) => all.filter((value) => of.includes(value)));
  const alike = contacts.length < 2 ? undefined : {
    emailAddresses: shared(contacts.map((one) => one.emailAddresses)),
    phoneNumbers: shared(contacts.map((one) => one.phoneNumbers)),
    name: shared(contacts.map((one) => [nameOf(one)])),
  };
  const value = (kind, text) => element(alike && !alike[kind].includes(text) ? 'strong' : 'bdi', {}, text);
  return element('ul', { class: 'choices' }, contacts.map((contact) => element('li', { 'data-key': contact.contactId },
    element('span', { class: 'choice' },
      value('name', nameOf(contact)), ' ', element('code', {}, contact.contactId),
      element('span', { class: 'soft' },
        contact.emailAddresses.map((text) => [' ', value('emailAddresses', text)]),
        contact.phoneNumbers.map((text) => [' ', value('phoneNumbers', text)]),
        contact.emailAddresses.length + contact.phoneNumbers.length ? '' : [' ', t('no address and no number')])),
    element('button', {
      type: 'button', class: 'quiet', 'data-do': 'link', 'data-contact': contact.contactId, 'data-name': nameOf(contact),
      'aria-label': t('Link to {contact}', { contact: [nameOf(contact), contact.contactId, ...contact.emailAddresses].join(', ') }),
    }, t('Link')))));
}

/** What a person should decide about an identity without a link: which of several contacts, or whether one is it. */
export function question({ status, candidateCount }, found, trouble, mayLink) {
  const isOne = status === 'unlinked' && candidateCount === 1 && found.length === 1;
  const words = isOne ? parts('Not matched: looks like {person}. Link?', { person: element('strong', {}, nameOf(found[0])) })
    : status === 'ambiguous' ? t('{count} contacts match. Which one is it?', { count: figure(candidateCount) })
      : t('Not matched: looks like one of {count} contacts. Link?', { count: figure(candidateCount) });
  return element('div', { class: 'ask' },
    element('p', {}, words, status === 'unlinked' ? element('span', { class: 'soft' }, ' ', t('The page has named the e-mail address; nobody has signed in with it.')) : ''),
    trouble ? element('p', { class: 'problem' }, trouble) : '',
    mayLink ? choices(found) : '');
}

/** A box to search for a contact in, with what is found below. Its buttons have `data-do="link"`. */
export class ContactFinder {
  constructor() {
    this.input = element('input', { type: 'search', name: 'contact', autocomplete: 'off', placeholder: t('Name, e-mail address or telephone number') });
    this.said = element('p', { class: 'soft', role: 'status' });
    this.found = element('div', {});
    this.root = element('div', { class: 'finder' }, element('label', {}, t('Find a contact'), this.input), this.said, this.found);
    whenTyped(this.input, () => this.find());
  }

  async find() {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    const text = this.input.value.trim();
    if (!text) {
      this.show('', []);
      return;
    }
    try {
      const { contacts } = await contactPage(text, { page_size: MOST_FOUND }, signal);
      if (signal.aborted) return;
      const more = contacts.length === MOST_FOUND ? ` ${t('These are the first; type more.')}` : '';
      const words = contacts.length ? t('{count} found.', { count: figure(contacts.length) }) + more : t('No contact has this name, address, number or id.');
      this.show(words, contacts);
    } catch (problem) {
      if (!signal.aborted) this.show(troubleOf(problem, 'identity'), []);
    }
  }

  show(words, contacts) {
    this.said.textContent = words;
    patchChildren(this.found, contacts.length ? [choices(contacts)] : []);
  }

  clear() {
    this.asking?.abort();
    this.input.value = '';
    this.show('', []);
  }
}
