// One question to the API, with its last good answer. It is asked again while it fails.

import { Problem } from './api.js';
import { momentWords } from './dom.js';
import { t } from './text.js';

const SLOW_MS = 2000; // without an answer for so long, the part says that it waits
const RETRY_MS = 5000;

const SERVICES = { identity: t('the identity service'), history: t('history'), 'identity or history': t('the identity service or history') };

export class Source {
  /**
   * `service`: who answers: one of SERVICES. `ask(subject, signal)`: sends the question. `changed()`: is called when the
   * answer or the trouble has changed.
   */
  constructor({ service, ask, changed, signal }) {
    Object.assign(this, { service, ask, changed, signal });
    this.forget();
    signal.addEventListener('abort', () => clearTimeout(this.retrying), { once: true });
  }

  /** Ask about this subject from now on; undefined: ask nothing. */
  about(subject) {
    if (subject === this.subject) return;
    this.forget();
    this.subject = subject;
    this.load();
  }

  forget() {
    this.subject = this.answer = this.problem = this.answeredAt = this.turn = undefined;
    this.isSlow = this.isMissing = false;
    clearTimeout(this.retrying);
  }

  /** Ask, or ask once more after the question that is under way. */
  async load() {
    clearTimeout(this.retrying);
    if (this.subject === undefined || this.signal.aborted) return;
    if (this.turn) {
      this.turn.isStale = true;
      return;
    }
    const turn = this.turn = { isStale: false };
    const isPast = () => turn !== this.turn || this.signal.aborted;
    const slow = setTimeout(() => {
      if (isPast()) return;
      this.isSlow = true;
      this.changed();
    }, SLOW_MS);
    const outcome = await this.ask(this.subject, this.signal).then((answer) => ({ answer }), (problem) => ({ problem }));
    clearTimeout(slow);
    if (isPast()) return;
    if (outcome.problem && !(outcome.problem instanceof Problem)) throw outcome.problem;
    this.turn = undefined;
    this.take(outcome);
    if (turn.isStale) this.load();
    this.changed();
  }

  take({ answer, problem }) {
    this.isSlow = false;
    this.isMissing = Boolean(problem) && problem.status === 404;
    this.problem = this.isMissing ? undefined : problem;
    if (!this.problem) {
      this.answer = answer;
      this.answeredAt = Date.now();
    } else if (isTransient(problem)) {
      this.retrying = setTimeout(() => this.load(), Math.max(RETRY_MS, problem.retryMs || 0));
    }
  }

  /** An answer that came in another way, and is newer than one that is under way. */
  set(answer) {
    this.turn = undefined;
    clearTimeout(this.retrying);
    this.take({ answer });
    this.changed();
  }

  /** What is wrong, in words; undefined: nothing. */
  get trouble() {
    if (!this.problem) return this.isSlow ? t('Waiting for {service}…', { service: SERVICES[this.service] }) : undefined;
    const words = troubleOf(this.problem, this.service);
    return this.answeredAt ? t('{trouble} Shown is what it said at {time}.', { trouble: words, time: momentWords(this.answeredAt) }) : words;
  }

  /** Whether neither an answer nor an error has come yet. */
  get isOpen() {
    return this.subject !== undefined && !this.answeredAt && !this.problem;
  }
}

function isTransient({ status }) {
  return status === 0 || status === 429 || status >= 500;
}

/** An error as a sentence that says who does not answer. */
export function troubleOf({ status, message }, service) {
  if (status === 0) return t('The gateway does not answer.');
  if ([502, 503, 504].includes(status)) {
    const words = t('{service} does not answer.', { service: SERVICES[service] });
    return words[0].toUpperCase() + words.slice(1);
  }
  if (status === 403) return t('These credentials may not see or change it.');
  return message;
}
