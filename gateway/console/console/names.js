// Names of contacts, asked for when they are to be shown.

import { ask, path } from './api.js';
import { nameOf } from './contacts.js';

const MOST_KEPT = 2000;
const KEPT_MS = 300000;
const AT_A_TIME = 4;

export class ContactNames {
  /** Calls `changed()` when a name has arrived. */
  constructor({ changed }) {
    this.changed = changed;
    this.forget();
  }

  forget() {
    this.kept = new Map(); // by contact: the name (undefined: not known yet), and when it was asked for
    this.waiting = [];
    this.asking = 0;
  }

  /** The name of a contact; undefined: it is not known, or not yet. */
  of(contactId) {
    const kept = this.kept.get(contactId);
    if (!kept || Date.now() - kept.askedAt > KEPT_MS) {
      if (this.kept.size >= MOST_KEPT) this.kept.clear();
      this.kept.set(contactId, { name: kept && kept.name, askedAt: Date.now() });
      this.waiting.push(contactId);
      this.askNext();
    }
    return kept && kept.name;
  }

  async askNext() {
    if (this.asking >= AT_A_TIME || !this.waiting.length) return;
    this.asking += 1;
    const contactId = this.waiting.shift();
    const contact = await ask(path(['/api/v1/contacts/', ''], contactId)).catch(() => undefined); // then its id is shown
    this.asking -= 1;
    const kept = this.kept.get(contactId);
    if (kept && contact) {
      kept.name = nameOf({ ...contact, contactId: undefined });
      this.changed();
    }
    this.askNext();
  }
}
