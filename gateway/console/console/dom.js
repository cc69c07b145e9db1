// Elements and texts for values. Values that visitors have sent become text, never markup and never a link.

/** An element with attributes and children; strings become text. `on…`: a listener; true: an attribute without value. */
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== ''));
  return made;
}

export const STATES = { ANONYMOUS: 'Anonymous', RECOGNIZED: 'Recognized', AUTHENTICATED: 'Authenticated' };

/** A visitor's state, shown by word, shape and colour. */
export function badge(state) {
  return element('span', { class: `badge ${state.toLowerCase()}` }, STATES[state] || state);
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

/** The time since then, in one unit. */
export function ago(ms) {
  const seconds = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (seconds < 5) return 'now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

/** Seconds as minutes and seconds. */
export function duration(seconds) {
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
