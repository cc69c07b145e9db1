// Links in doubt, for a person to decide: identities that several contacts match, that only look like a contact, or that
// are linked by name only.

import { personAddress } from './addresses.js';
import { ask, path, query } from './api.js';
import { wayOf } from './certainty.js';
import { contactsOf, nameOf, question } from './contacts.js';
import { element } from './dom.js';
import { lastSeen } from './presence.js';
import { figure, t } from './text.js';

const MOST_COUNTED = 1000; // by the API

/** A page of the identities with a doubt. Throws a Problem. */
export function doubtPage(doubt, page, signal) {
  return ask(`/api/v1/doubtful-links${query({ doubt, ...page })}`, { signal });
}

/** How many identities have a doubt, in words; undefined: not known. */
export async function doubtCount(doubt, signal) {
  const answer = await doubtPage(doubt, { page_size: 1 }, signal).catch(() => undefined);
  if (!answer) return undefined;
  return answer.count < MOST_COUNTED ? figure(answer.count) : t('{count} or more', { count: figure(answer.count) });
}

/** The decision in force about an identity, and the contacts that it is about. Throws a Problem. */
export async function decisionOf(identityId, signal) {
  const { links: [inForce] } = await ask(path(['/api/v1/identities/', '/links'], identityId) + query({ page_size: 1 }), { signal });
  return { inForce, contacts: await contactsOf(inForce.contactId ? [inForce.contactId] : inForce.candidateContactIds, signal) };
}

/** An identity in doubt with what can be decided. `about`: the question for its decision, once it is asked. */
export function doubtItem({ identityId, lastEventTime }, about, mayLink) {
  const { answer, trouble } = about || {};
  return element('li', { 'data-key': identityId, 'data-identity': identityId },
    element('p', {}, element('a', { href: personAddress(identityId) }, element('bdi', {}, identityId)), ' ', element('span', { class: 'soft' }, lastSeen(lastEventTime))),
    answer ? decision(answer, trouble, mayLink) : element('p', { class: trouble ? 'problem' : 'soft' }, trouble || '…'));
}

function decision({ inForce, contacts }, trouble, mayLink) {
  if (inForce.status !== 'linked') return question(inForce, contacts, trouble, mayLink);
  const name = contacts.length ? nameOf(contacts[0]) : inForce.contactId;
  const { kind, words, todo } = wayOf(inForce);
  const act = (what, label) => element('button', { type: 'button', class: 'quiet', 'data-key': what, 'data-do': what, 'data-contact': inForce.contactId, 'data-name': name }, label);
  return element('div', { class: 'ask' },
    element('p', {}, element('strong', {}, name), ' ', element('code', {}, inForce.contactId), ' ', element('span', { class: `way ${kind}` }, words), ' ', todo || ''),
    contacts.length ? element('p', { class: 'soft' }, [...contacts[0].emailAddresses, ...contacts[0].phoneNumbers].map((value) => [element('bdi', {}, value), ' '])) : '',
    trouble ? element('p', { class: 'problem' }, trouble) : '',
    mayLink ? element('p', { class: 'actions' }, act('link', t('Confirm')), act('unlink', t('Unlink'))) : '');
}
