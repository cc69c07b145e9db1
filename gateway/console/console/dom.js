// Elements and texts for values. Values that visitors have sent become text, never markup and never a link.

import { locale, t } from './text.js';

// Characters that are not seen, or that reorder what stands beside them. Line breaks and tabs are only space.
const UNSEEN = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}])/u;

/** An element with attributes and children; strings become text. `on…`: a listener; true: an attribute without value. */
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? '' : shown(name, value));
  }
  const given = children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== '');
  made.append(...given.flatMap((child) => (typeof child === 'string' ? pieces(child) : child)));
  return made;
}

/** A table that scrolls by itself, with a name for its region. With `hasRowHeads`, the first cell of each row is its head. */
export function table(name, heads, rows, hasRowHeads = false) {
  const cell = (content, number) => (hasRowHeads && number === 0 ? element('th', { scope: 'row' }, content) : element('td', {}, content));
  return element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': name }, element('table', {},
    element('thead', {}, element('tr', {}, heads.map((head) => (head ? element('th', { scope: 'col' }, head) : element('td', {}))))),
    element('tbody', {}, rows.map((cells) => element('tr', {}, cells.map(cell))))));
}

function shown(name, value) {
  return name === 'title' || name === 'aria-label' ? seen(value) : value;
}

/** A text with a mark such as [U+202E] for each character that is not seen. */
export function seen(text) {
  return text.split(UNSEEN).map((piece, number) => (number % 2 ? `[${codePoint(piece)}]` : piece)).join('');
}

function pieces(text) {
  const made = text.split(UNSEEN);
  return made.map((piece, number) => (number % 2 ? element('span', { class: 'unseen-character' }, codePoint(piece)) : piece)).filter(Boolean);
}

function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
}

export const STATES = { ANONYMOUS: t('Anonymous'), RECOGNIZED: t('Recognized'), AUTHENTICATED: t('Authenticated') };

/**
 * A visitor's state, shown by word, shape and colour; with an assurance also whether it is verified. Only a visitor who
 * is signed in can be.
 */
export function badge(state, assurance) {
  const proven = isVerified(state, assurance) ? ' proven' : '';
  return element('span', { class: `badge ${state.toLowerCase()}${proven}` }, stateWords(state, assurance));
}

/** The words of a badge. */
export function stateWords(state, assurance) {
  const isSaid = assurance && state !== 'ANONYMOUS';
  return [STATES[state] || state, isSaid && (isVerified(state, assurance) ? t('verified') : t('not verified'))].filter(Boolean).join(', ');
}

function isVerified(state, assurance) {
  return state === 'AUTHENTICATED' && assurance === 'proven';
}

/** The beginning of an id, with the whole id as title. */
export function shortened(id, length = 8) {
  return element('code', { title: id }, id.length > length ? `${id.slice(0, length)}…` : id);
}

/** The path and query of a page's address. */
export function place(url) {
  try {
    const { pathname, search } = new URL(url);
    return pathname + search;
  } catch {
    return url;
  }
}

const today = new Intl.DateTimeFormat(locale, { timeStyle: 'medium' });
const otherDay = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'medium' });

/** A time of day, with the date unless it is today. */
export function moment(ms) {
  const date = new Date(ms);
  return element('time', { datetime: date.toISOString(), title: otherDay.format(date) }, momentWords(ms));
}

/** The same as a text. */
export function momentWords(ms) {
  const date = new Date(ms);
  return (date.toDateString() === new Date().toDateString() ? today : otherDay).format(date);
}

const dayNames = new Intl.RelativeTimeFormat(locale, { numeric: 'auto' });
const ofThisYear = new Intl.DateTimeFormat(locale, { weekday: 'short', day: 'numeric', month: 'short' });
const ofOtherYears = new Intl.DateTimeFormat(locale, { dateStyle: 'medium' });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: 'short' });

/** A day and time for reading: 10:43, yesterday 10:43, or a date. */
export function day(ms) {
  const date = new Date(ms);
  const midnight = new Date().setHours(0, 0, 0, 0);
  const days = Math.round((new Date(ms).setHours(0, 0, 0, 0) - midnight) / 86400000);
  const isOfThisYear = date.getFullYear() === new Date().getFullYear();
  const shown = days === 0 ? clock.format(date)
    : days === -1 ? `${dayNames.format(-1, 'day')} ${clock.format(date)}`
      : (isOfThisYear ? ofThisYear : ofOtherYears).format(date);
  return element('time', { datetime: date.toISOString(), title: otherDay.format(date) }, shown);
}

/** A length of time in one unit, or in hours and minutes. */
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (seconds < 60) return t('{seconds} s', { seconds });
  if (minutes < 60) return t('{minutes} min', { minutes });
  if (hours < 24) return t('{hours} h {minutes} min', { hours, minutes: minutes % 60 });
  return t('{days} d', { days: Math.floor(hours / 24) });
}

/** The time since then, in one unit. */
export function ago(ms) {
  const seconds = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (seconds < 5) return t('now');
  if (seconds < 60) return t('{seconds} s ago', { seconds });
  if (seconds < 3600) return t('{minutes} min ago', { minutes: Math.floor(seconds / 60) });
  return t('{hours} h ago', { hours: Math.floor(seconds / 3600) });
}

/** Whether an element is a box with something typed in it, which Escape empties. */
export function hasText(target) {
  return target.matches('input:not([type="checkbox"], [type="radio"])') && target.value !== '';
}

const PAUSE_MS = 250;

/** Call `find` after a pause in typing into a box, and at once with Enter. Returns what stops the waiting for a pause. */
export function whenTyped(input, find) {
  let waiting;
  const stop = () => clearTimeout(waiting);
  input.addEventListener('input', () => {
    stop();
    waiting = setTimeout(find, PAUSE_MS);
  });
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    stop();
    find();
  });
  return stop;
}
