// Decisions about the contact of an identity, as a table.

import { wayOf } from './certainty.js';
import { moment, table } from './dom.js';

const MOST_CANDIDATES = 5;

/** All decisions, newest first; of several identities with their ids. */
export function linkTable(links, withIdentity = false) {
  if (!links.length) return '';
  const heads = ['When', 'What', 'Contact', 'How', 'By', ...(withIdentity ? ['Identity'] : [])];
  return table('Decisions', heads, links.map((link) => [
    moment(link.createTime),
    link.endTime === null ? `${link.status}, in force` : link.status,
    link.contactId || link.candidateContactIds.slice(0, MOST_CANDIDATES).join(', '),
    link.status === 'linked' ? wayOf(link).words : '',
    link.actor === 'rule' ? 'a rule' : link.actor,
    ...(withIdentity ? [link.identityId] : []),
  ]));
}
