// Turns values into elements and words. What visitors have sent becomes text here and nowhere else: never markup, never an address.

/** An element with attributes and children; strings become text. `on…` is a listener, a boolean an attribute or none. */
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

/** A visitor's state: told by its word and its shape, and by its colour. */
export function badge(state) {
  return element('span', { class: `badge ${state.toLowerCase()}` }, STATES[state] || state);
}

/** An id that may be long: the beginning is shown, the whole is its title. */
export function shortened(id, length = 8) {
  return element('code', { title: id }, id.length > length ? `${id.slice(0, length)}…` : id);
}

/** The address of a page as it is shown, in short: its path. */
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

/** A moment: the time of day, with its date unless that is today's. */
export function moment(ms) {
  const date = new Date(ms);
  const shown = date.toDateString() === new Date().toDateString() ? today : otherDay;
  return element('time', { datetime: date.toISOString(), title: otherDay.format(date) }, shown.format(date));
}

/** How long ago, in the largest unit that fits. */
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
