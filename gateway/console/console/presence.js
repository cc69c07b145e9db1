// Where a person is, or was last, in words.

import { visitAddress } from './addresses.js';
import { ask, path, query } from './api.js';
import { ago, day, place } from './dom.js';
import { callerSites } from './session.js';
import { parts, t } from './text.js';

/** Where a visitor is or was, and the address of the visit if the visitor is there now. */
export function where(visitor) {
  const { visitId, site, title, url, presence, leaveTime, lastEventTime } = visitor;
  if (presence === 'PRESENT') {
    const page = title || (url && place(url));
    return { visitId, isHere: true, presence: [[t('on the site now'), site, page].filter(Boolean).join(' · ')], address: visitAddress(visitId) };
  }
  if (presence === 'LEFT') return { visitId, presence: [parts('left {time}', { time: ago(leaveTime || lastEventTime) }), ` · ${site}`], address: visitAddress(visitId) };
  return { visitId, presence: lastSeen(lastEventTime) };
}

/** When a contact who is not in the live state was seen last. A key of several sites may not ask that. */
export async function pastOf(contactId, signal, page = {}) {
  if (callerSites().length > 1) return [];
  const person = await ask(path(['/api/v1/contacts/', '/person'], contactId) + query(page), { signal }).catch((problem) => {
    if (problem.status !== 400) throw problem; // 400: too much for one answer
  });
  if (!person || person.nextPageToken) return []; // other identities may have been seen later
  const times = person.identities.flatMap(({ visits }) => visits || []).map((visit) => visit.endDate || visit.startDate);
  return times.length ? lastSeen(times.reduce((one, other) => Math.max(one, other))) : [t('not seen yet')];
}

export function lastSeen(ms) {
  return parts('last seen {time}', { time: day(ms) });
}
