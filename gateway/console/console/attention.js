// Which visitors need a look, and why, by the rules of ATTENTION_FILE.

import { ask } from './api.js';
import { figure, t } from './text.js';

const MOST_EVENTS = 20; // of a visit, that are counted

export class Attention {
  constructor() {
    this.forget();
  }

  forget() {
    this.pageRules = [];
    this.eventRules = [];
    this.pages = new WeakMap(); // by visitor: the rules that match the page
  }

  /** Read the rules. Throws a Problem. */
  async load(signal) {
    const { pages, events } = await ask('/api/v1/attention', { signal });
    this.pageRules = pages.map((rule) => ({ ...rule, titles: rule.titles.map(matcher), addresses: rule.addresses.map(matcher) }));
    this.eventRules = events.map((rule) => ({ ...rule, events: rule.events.map(matcher) }));
    this.pages = new WeakMap();
  }

  /** The names of the rules, in order. */
  get names() {
    return [...this.pageRules, ...this.eventRules].map(({ name }) => name);
  }

  /** The notable events of a visitor with an event of the live stream, if a rule counts it; else the same. */
  withEvent(known = [], { eventID: eventId, eventName, timestamp: eventTime }) {
    if (!this.eventRules.some(({ events }) => isAny(events, eventName))) return known;
    return together([{ eventId, eventName, eventTime }], known);
  }

  /** The rules that a visitor meets: their names, and how often it happened, where that is counted. */
  of(visitor) {
    if (visitor.presence !== 'PRESENT' || visitor.bot) return [];
    const now = Date.now();
    const met = this.pageRulesOf(visitor).filter(({ minutes }) => !minutes || (visitor.pageEnterTime && now - visitor.pageEnterTime >= minutes * 60000));
    const made = met.map(({ name }) => ({ name }));
    for (const { name, events, count, minutes } of this.eventRules) {
      const found = (visitor.notableEvents || []).filter((one) => now - one.eventTime < minutes * 60000 && isAny(events, one.eventName));
      if (found.length >= count) made.push({ name, times: found.length });
    }
    return made;
  }

  pageRulesOf(visitor) {
    let found = this.pages.get(visitor);
    if (!found) {
      const { url, title } = visitor;
      found = this.pageRules.filter(({ titles, addresses }) => (title && isAny(titles, title)) || (url && isAny(addresses, url)));
      this.pages.set(visitor, found);
    }
    return found;
  }
}

/** What a visitor does that needs a look, in words. */
export function lookWords(met) {
  return met.map(({ name, times }) => (times ? `${t(name)} ×${figure(times)}` : t(name))).join(', ');
}

/** The latest events of two lists, each once: of both, as the second one has it. */
export function together(some, others) {
  const all = new Map([...some, ...others].map((one) => [one.eventId, one]));
  return [...all.values()].sort((one, other) => one.eventTime - other.eventTime).slice(-MOST_EVENTS);
}

function isAny(matchers, text) {
  const given = text.toLowerCase();
  return matchers.some((isLike) => isLike(given));
}

/** Whether a text is like a pattern, in which `*` stands for any characters. The case does not matter. */
export function matches(pattern, text) {
  return matcher(pattern)(text.toLowerCase());
}

/** Whether a text in lower case is like a pattern, as a function. */
function matcher(pattern) {
  const [first, ...rest] = pattern.toLowerCase().split('*');
  if (!rest.length) return (given) => given === first;
  const last = rest.pop();
  return (given) => {
    if (!given.startsWith(first)) return false;
    let at = first.length;
    for (const piece of rest) {
      const found = given.indexOf(piece, at);
      if (found < 0) return false;
      at = found + piece.length;
    }
    return given.length - last.length >= at && given.endsWith(last);
  };
}
