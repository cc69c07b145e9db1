// Elements and texts for values. Values that visitors have sent become text, never markup and never a link.

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
    element('thead', {}, element('tr', {}, heads.map((head) => element('th', { scope: 'col' }, head)))),
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

export const STATES = { ANONYMOUS: 'Anonymous', RECOGNIZED: 'Recognized', AUTHENTICATED: 'Authenticated' };

/**
 * A visitor's state, shown by word, shape and colour; with an assurance also whether it is verified. Only a visitor who
 * is signed in can be.
 */
export function badge(state, assurance) {
  const isVerified = state === 'AUTHENTICATED' && assurance === 'proven';
  const sure = assurance && state !== 'ANONYMOUS' ? `, ${isVerified ? '' : 'not '}verified` : '';
  return element('span', { class: `badge ${state.toLowerCase()}${isVerified ? ' proven' : ''}` }, STATES[state] || state, sure);
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

const today = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const otherDay = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

/** A time of day, with the date unless it is today. */
export function moment(ms) {
  const date = new Date(ms);
  const shown = date.toDateString() === new Date().toDateString() ? today : otherDay;
  return element('time', { datetime: date.toISOString(), title: otherDay.format(date) }, shown.format(date));
}

const dayNames = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const ofThisYear = new Intl.DateTimeFormat(undefined, { weekday: 'short', day: 'numeric', month: 'short' });
const ofOtherYears = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });

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
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** The time since then, in one unit. */
export function ago(ms) {
  const seconds = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (seconds < 5) return 'now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

/** A number with its noun. */
export function counted(number, one, several = `${one}s`) {
  return `${number} ${number === 1 ? one : several}`;
}

/** Whether an element is a box with something typed in it, which Escape empties. */
export function hasText(target) {
  return target.matches('input:not([type="checkbox"], [type="radio"])') && target.value !== '';
}
