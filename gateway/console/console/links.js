// Decisions about the contact of an identity, as a table.

import { wayOf } from './certainty.js';
import { moment, table } from './dom.js';
import { t } from './text.js';

const MOST_CANDIDATES = 5;
const STATUSES = { linked: t('linked'), unlinked: t('unlinked'), ambiguous: t('ambiguous') };

/** All decisions, newest first; of several identities with their ids. */
export function linkTable(links, withIdentity = false) {
  if (!links.length) return '';
  const heads = [t('When'), t('What'), t('Contact'), t('How'), t('By'), ...(withIdentity ? [t('Identity')] : [])];
  return table(t('Decisions'), heads, links.map((link) => [
    moment(link.createTime),
    link.endTime === null ? t('{status}, in force', { status: statusWords(link) }) : statusWords(link),
    link.contactId || link.candidateContactIds.slice(0, MOST_CANDIDATES).join(', '),
    link.status === 'linked' ? wayOf(link).words : isLike(link) ? t('looks like a contact') : '',
    link.actor === 'rule' ? t('a rule') : link.actor,
    ...(withIdentity ? [link.identityId] : []),
  ]));
}

function isLike({ status, candidateCount }) {
  return status === 'unlinked' && candidateCount > 0;
}

function statusWords(link) {
  return isLike(link) ? t('not linked') : STATUSES[link.status] || link.status;
}
