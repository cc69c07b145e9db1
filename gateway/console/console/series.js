// How many visitors are here, as the server counts them, and how many were in each minute of the last hour: a line,
// beside the same hour a week before.

import { ask, query } from './api.js';
import { element } from './dom.js';

const MINUTE_MS = 60000;
const HOUR_MS = 60 * MINUTE_MS;
const WEEK_MS = 7 * 24 * HOUR_MS;
const COUNTS_MS = 10000;
const WIDTH = 300;
const HEIGHT = 44;
const KEYS = { '': 'here', AUTHENTICATED: 'authenticated', RECOGNIZED: 'recognized', ANONYMOUS: 'anonymous' };

const numbers = new Intl.NumberFormat();
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: 'short' });

export class Series {
  /**
   * `root`: a figure with an svg and a caption. Calls `counted(counts)` with the answer of /api/v1/visitors/counts while
   * `needsCounts()`: the page does not know all visitors itself.
   */
  constructor(root, { counted, needsCounts }) {
    Object.assign(this, { root, counted, needsCounts });
    [this.picture, this.caption] = root.children;
    this.filter = { site: '', state: '' };
  }

  /** Ask from now on, until `signal` is aborted. */
  follow(signal) {
    this.signal = signal;
    this.last = this.before = this.trouble = undefined;
    this.draw();
    this.load();
    const timers = [
      setInterval(() => document.hidden || this.load(), MINUTE_MS),
      setInterval(() => document.hidden || this.count(), COUNTS_MS),
    ];
    signal.addEventListener('abort', () => timers.forEach(clearInterval), { once: true });
  }

  /** Show the visitors of these filters. */
  show({ site, state }) {
    const isOther = site !== this.filter.site;
    this.filter = { site, state };
    if (isOther && this.signal && !this.signal.aborted) {
      this.last = undefined;
      this.load();
    }
    this.draw();
  }

  async count() {
    if (!this.needsCounts() || this.signal.aborted) return;
    const { signal } = this;
    const counts = await ask('/api/v1/visitors/counts', { signal }).catch(() => undefined); // the live stream reports errors
    if (counts && !signal.aborted) this.counted(counts);
  }

  async load() {
    const { signal, filter: { site } } = this;
    const to = Math.floor(Date.now() / MINUTE_MS + 1) * MINUTE_MS;
    const read = async (end) => {
      const answer = await ask(`/api/v1/visitors/minutes${query({ site, from: end - HOUR_MS, to: end })}`, { signal });
      return { from: end - HOUR_MS, to: end, minutes: answer.series[0].minutes };
    };
    let found;
    let trouble;
    try {
      found = await Promise.all([read(to), read(to - WEEK_MS)]);
    } catch (problem) {
      trouble = problem.message;
    }
    if (signal.aborted || site !== this.filter.site) return;
    this.trouble = trouble;
    if (found) [this.last, this.before] = found;
    this.draw();
    this.count();
  }

  draw() {
    const key = KEYS[this.filter.state];
    const words = this.words(key);
    this.root.hidden = !words;
    if (this.caption.textContent !== words) this.caption.textContent = words;
    this.picture.replaceChildren(...(this.last && this.last.minutes.length ? this.lines(key) : []));
    this.picture.toggleAttribute('hidden', !this.picture.children.length);
  }

  words(key) {
    if (!this.last) return this.trouble ? `How many were here in the last hour is not known: ${this.trouble}` : '';
    const { minutes } = this.last;
    if (!minutes.length) return 'No minute of the last hour was counted yet.';
    const said = [`Last hour: ${range(minutes, key)}`];
    if (minutes.length < 60) said.push(`, ${minutes.length} of 60 minutes counted`);
    said.push('. ');
    const { from, to, minutes: then } = this.before;
    if (then.length) said.push(`Usual for ${weekday.format(from)} ${clock.format(from)}–${clock.format(to)}, a week before: ${range(then, key)}.`);
    else said.push('A week before nothing was counted.');
    return said.join('');
  }

  lines(key) {
    const values = [this.last, this.before].flatMap(({ minutes }) => minutes.map((minute) => minute[key]));
    const [least, most] = [Math.min(...values), Math.max(1, ...values)];
    const scale = { bottom: Math.max(0, 2 * least - most), most }; // half of the height, at least, is for the differences
    return [line(this.before, key, scale, 'before'), line(this.last, key, scale, 'last')];
  }
}

/** The least and the greatest number of some minutes. */
function range(minutes, key) {
  const values = minutes.map((minute) => minute[key]);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? numbers.format(most) : `${numbers.format(least)}–${numbers.format(most)}`;
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

/** The figure that a Series draws in. */
export function seriesFigure() {
  const picture = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const attributes = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, 'aria-hidden': 'true', preserveAspectRatio: 'none' };
  for (const [name, value] of Object.entries(attributes)) picture.setAttribute(name, value);
  return element('figure', { class: 'series', hidden: true }, picture, element('figcaption', { class: 'soft' }));
}
