// How many visitors are here, as the server counts them, and how many were in each minute of the last hour: a line,
// beside the same hour a week before, of what the filter shows and of each website in the totals.

import { ask, query } from './api.js';
import { element } from './dom.js';
import { figure, locale, t } from './text.js';

const MINUTE_MS = 60000;
const HOUR_MS = 60 * MINUTE_MS;
const WEEK_MS = 7 * 24 * HOUR_MS;
const COUNTS_MS = 10000;
const WIDTH = 300;
const HEIGHT = 44;
const KEYS = { '': 'here', AUTHENTICATED: 'authenticated', RECOGNIZED: 'recognized', ANONYMOUS: 'anonymous' };

const clock = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit' });
const weekday = new Intl.DateTimeFormat(locale, { weekday: 'short' });

export class Series {
  /**
   * `root`: a figure with an svg and a caption. Calls `counted(counts)` with the answer of /api/v1/visitors/counts while
   * `needsCounts()`: the page does not know all visitors itself.
   */
  constructor(root, { counted, needsCounts }) {
    Object.assign(this, { root, counted, needsCounts });
    [this.picture, this.caption] = root.children;
    this.filter = { site: '', state: '' };
    this.places = new Map();
    this.drawn = new WeakMap(); // by place: what it shows
    this.forget();
  }

  forget() {
    this.read = new Map(); // by website, '' for all together: the last hour, and the one a week before
    this.trouble = undefined;
  }

  /** Ask from now on, until `signal` is aborted. */
  follow(signal) {
    this.signal = signal;
    this.forget();
    this.draw();
    this.load(this.names);
    const timers = [
      setInterval(() => document.hidden || this.load(this.names), MINUTE_MS),
      setInterval(() => document.hidden || this.count(), COUNTS_MS),
    ];
    signal.addEventListener('abort', () => timers.forEach(clearInterval), { once: true });
  }

  /** Show the visitors of these filters. */
  show({ site, state }) {
    this.filter = { site, state };
    this.loadNew();
    this.draw();
  }

  /** Draw the lines of these websites too, each in its element. */
  drawBeside(places) {
    this.places = places;
    this.loadNew();
    this.drawSites();
  }

  /** The websites to ask about. */
  get names() {
    return [...new Set([this.filter.site, ...this.places.keys()])];
  }

  loadNew() {
    if (!this.signal || this.signal.aborted || this.isLoading) return;
    const names = this.names.filter((name) => !this.read.has(name));
    if (names.length) this.load(names);
  }

  async count() {
    if (!this.needsCounts() || this.signal.aborted) return;
    const { signal } = this;
    const counts = await ask('/api/v1/visitors/counts', { signal }).catch(() => undefined); // the live stream reports errors
    if (counts && !signal.aborted) this.counted(counts);
  }

  async load(names) {
    const { signal } = this;
    const to = Math.floor(Date.now() / MINUTE_MS + 1) * MINUTE_MS;
    const read = async (site, end) => {
      const { series } = await ask(`/api/v1/visitors/minutes${query({ site, from: end - HOUR_MS, to: end })}`, { signal });
      return series.map(({ minutes }) => ({ from: end - HOUR_MS, to: end, minutes }));
    };
    const questions = [names.filter((name) => !name), names.filter(Boolean)].filter(({ length }) => length);
    this.isLoading = true;
    const found = new Map(names.map((name) => [name, undefined])); // after a failure they are asked about in a minute
    let trouble;
    try {
      await Promise.all(questions.map(async (asked) => {
        const [last, before] = await Promise.all([read(asked, to), read(asked, to - WEEK_MS)]);
        asked.forEach((name, number) => found.set(name, { last: last[number], before: before[number] }));
      }));
    } catch (problem) {
      trouble = problem.message;
    }
    if (signal !== this.signal || signal.aborted) return;
    this.isLoading = false;
    this.trouble = trouble;
    for (const [name, hours] of found) if (hours || !this.read.has(name)) this.read.set(name, hours);
    this.draw();
    this.loadNew();
    this.count();
  }

  draw() {
    const key = KEYS[this.filter.state];
    const found = this.read.get(this.filter.site);
    const words = this.words(found, key);
    this.root.hidden = !words;
    if (this.caption.textContent !== words) this.caption.textContent = words;
    drawLines(this.picture, found, key);
    this.drawSites();
  }

  words(found, key) {
    if (!found) return this.trouble ? t('How many were here in the last hour is not known: {trouble}', { trouble: this.trouble }) : '';
    const { minutes } = found.last;
    if (!minutes.length) return t('No minute of the last hour was counted yet.');
    const said = [minutes.length < 60
      ? t('Last hour: {range}, {count} of 60 minutes counted.', { range: range(minutes, key), count: figure(minutes.length) })
      : t('Last hour: {range}.', { range: range(minutes, key) })];
    said.push(usual(found, key) || t('A week before nothing was counted.'));
    return said.join(' ');
  }

  /** Draw the line of each website, and what was usual a week before. */
  drawSites() {
    const key = KEYS[this.filter.state];
    for (const [site, place] of this.places) {
      const found = this.read.get(site);
      const before = this.drawn.get(place);
      if (before && before.key === key && before.found === found) continue;
      this.drawn.set(place, { key, found });
      if (!place.firstChild) place.append(picture(), element('span', {}));
      drawLines(place.firstChild, found, key);
      place.title = found ? usual(found, key) : '';
      place.lastChild.textContent = place.title && t('usual {range}', { range: range(found.before.minutes, key) });
    }
  }
}

function usual({ before: { from, to, minutes } }, key) {
  const time = `${weekday.format(from)} ${clock.format(from)}–${clock.format(to)}`;
  return minutes.length ? t('Usual for {time}, a week before: {range}.', { time, range: range(minutes, key) }) : '';
}

/** Draw the lines of two hours; none if no minute of the last one was counted. */
function drawLines(picture, found, key) {
  const isCounted = Boolean(found && found.last.minutes.length);
  picture.toggleAttribute('hidden', !isCounted);
  if (!isCounted) {
    picture.replaceChildren();
    return;
  }
  const values = [found.last, found.before].flatMap(({ minutes }) => minutes.map((minute) => minute[key]));
  const [least, most] = [Math.min(...values), Math.max(1, ...values)];
  const scale = { bottom: Math.max(0, 2 * least - most), most }; // half of the height, at least, is for the differences
  picture.replaceChildren(line(found.before, key, scale, 'before'), line(found.last, key, scale, 'last'));
}

/** The least and the greatest number of some minutes. */
function range(minutes, key) {
  const values = minutes.map((minute) => minute[key]);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? figure(most) : `${figure(least)}–${figure(most)}`;
}

/** A path through the minutes. Where one is missing, it is interrupted. */
function line({ from, minutes }, key, { bottom, most }, name) {
  let last;
  const steps = minutes.map((minute) => {
    const begins = last === undefined || minute.time - last > MINUTE_MS;
    last = minute.time;
    const x = (WIDTH * (minute.time - from)) / HOUR_MS;
    const y = HEIGHT - 2 - ((HEIGHT - 4) * (minute[key] - bottom)) / (most - bottom || 1);
    return `${begins ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}${begins ? 'h2' : ''}`;
  });
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', steps.join(''));
  path.setAttribute('class', name);
  return path;
}

function picture() {
  const made = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const attributes = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, 'aria-hidden': 'true', preserveAspectRatio: 'none' };
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** The figure that a Series draws in. */
export function seriesFigure() {
  return element('figure', { class: 'series', hidden: true }, picture(), element('figcaption', { class: 'soft' }));
}
