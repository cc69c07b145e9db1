// A decision that can be undone: it is sent when its ten seconds are over, so that undoing it leaves no trace. (A link
// that is made and unmade would rule its contact out.)

import { element } from './dom.js';
import { t } from './text.js';

const UNDO_MS = 10000;

export class Undo {
  /** `failed(problem)`: is called when a decision could not be sent. `changed()`: after one was sent or undone. */
  constructor({ failed, changed }) {
    Object.assign(this, { failed, changed });
    this.words = element('span', { role: 'status' });
    this.left = element('span', { class: 'soft', 'aria-hidden': 'true' });
    this.button = element('button', { type: 'button', class: 'quiet', onclick: () => this.undo() }, t('Undo'));
    this.now = element('button', { type: 'button', class: 'quiet', onclick: () => this.commit() }, t('Send now'));
    this.root = element('p', { class: 'undo', hidden: true }, this.words, this.button, this.now, this.left);
    addEventListener('pagehide', () => this.commit());
  }

  /** Announce a decision, and send it by `send()` after ten seconds. One that waits is sent first. */
  offer(words, send) {
    this.commit();
    this.send = send;
    this.until = Date.now() + UNDO_MS;
    this.words.textContent = words;
    this.root.hidden = false;
    this.counting = setInterval(() => this.count(), 250);
    this.count();
    this.button.focus();
  }

  count() {
    const seconds = Math.ceil((this.until - Date.now()) / 1000);
    this.left.textContent = t('in {seconds} s', { seconds: Math.max(0, seconds) });
    if (seconds <= 0) this.commit();
  }

  /** Whether a decision waits. */
  get isWaiting() {
    return Boolean(this.send);
  }

  undo() {
    this.end();
    this.changed();
  }

  /** Send the decision that waits, if there is one. */
  async commit() {
    const { send } = this;
    if (!send) return;
    this.end();
    try {
      await send();
      this.changed();
    } catch (problem) {
      this.failed(problem);
    }
  }

  end() {
    clearInterval(this.counting);
    this.send = undefined;
    this.root.hidden = true;
    this.words.textContent = '';
  }
}
