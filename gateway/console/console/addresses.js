// The addresses of the views, and what an address names.

import { query } from './api.js';

const ROOT = '/console/';
const VIEWS = { visit: 'visit', visits: 'visit', person: 'person' };
const VISIT = /^\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?$/i;
/** What the view of contacts shows without a text: who is on the site now, and links in doubt, as the API names them. */
export const SHOWN = ['here', 'ambiguous', 'recognized_only', 'by_name'];
const FILTERS = ['site', 'state', 'page', 'sort', 'look', 'bots'];

/** Of the list of visitors, with its filters. */
export function liveAddress(filters = {}) {
  return `${ROOT}live${queryOf(filters)}`;
}

/** Of a visit, and the filters of the list beside it. */
export function visitAddress(visitId, filters = {}) {
  return `${ROOT}visit/${encodeURIComponent(visitId)}${queryOf(filters)}`;
}

/** Of a person, by contact, identity or device. */
export function personAddress(id) {
  return `${ROOT}person/${encodeURIComponent(id)}`;
}

/** Of the contacts that a text may mean, or of what one of SHOWN means; without either of all. */
export function contactsAddress(q, show) {
  return `${ROOT}contacts${query({ q, show })}`;
}

function queryOf(filters) {
  return query(Object.fromEntries(FILTERS.map((name) => [name, filters[name]])));
}

/** The id of a visit in the form of the API, from any notation; undefined: it is none. */
export function visitIdOf(text) {
  const found = VISIT.exec(text.trim());
  return found ? found.slice(1).join('-').toLowerCase() : undefined;
}

/**
 * What an address names: `view` (live, contacts, quality, health, visit, person), the `id` in it (of contacts: the text to
 * find), of contacts also `show` (one of SHOWN, or empty), and the `filters` of the list. undefined: it is not the address
 * of a view.
 */
export function viewAt({ pathname, search, hash }) {
  if (!pathname.startsWith(ROOT)) return undefined;
  const [view, ...rest] = pathname.slice(ROOT.length).split('/');
  const given = new URLSearchParams(search);
  const filters = Object.fromEntries(FILTERS.map((name) => [name, given.get(name) || '']));
  if (!view || view === 'index.html') return hash.length > 1 ? { view: 'visit', id: hash.slice(1), filters } : { view: 'live', id: '', filters };
  if (view === 'contacts' && !rest.join('')) return { view, id: (given.get('q') || '').trim(), show: SHOWN.find((one) => one === given.get('show')) || '', filters };
  if (['live', 'quality', 'health'].includes(view) && !rest.join('')) return { view, id: '', filters };
  if (!Object.hasOwn(VIEWS, view) || rest.length !== 1 || !rest[0]) return undefined;
  try {
    return { view: VIEWS[view], id: decodeURIComponent(rest[0]), filters };
  } catch {
    return undefined;
  }
}
