// The visits of a person or device, newest first.

import { ask, path, query } from './api.js';

const PAGE = 1000; // the API's largest page; it gives the oldest visits first
const AGES_S = [undefined, 604800, 86400, 3600]; // when there are more, those of the last week, day, hour

/**
 * Visits by contact, identity or device (one of them is given): `visits`, newest first, and whether there are more.
 * Throws a Problem.
 */
export async function earlierVisits({ contactId, identityId, globalVisitId }, signal) {
  if (contactId) {
    const person = await ask(path(['/api/v1/contacts/', '/person'], contactId), { signal });
    return { visits: newestFirst(person.identities.flatMap(({ visits }) => visits || [])), isMore: Boolean(person.nextPageToken) };
  }
  const address = identityId ? path(['/server/data/identities/', '/visits'], identityId) : '/server/data/visits';
  let found = [];
  for (const age of AGES_S) {
    found = (await ask(address + query({ page_size: PAGE, age, globalVisitID: identityId ? '' : globalVisitId }), { signal })) || [];
    if (found.length < PAGE) return { visits: newestFirst(found), isMore: Boolean(age) };
  }
  return { visits: newestFirst(found), isMore: true };
}

/** Each visit once, the one that began last first. */
export function newestFirst(visits) {
  return [...new Map(visits.map((visit) => [visit.visitId, visit])).values()].sort((one, other) => other.startDate - one.startDate);
}
