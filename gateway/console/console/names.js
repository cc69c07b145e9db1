// Names of contacts, asked for when they are to be shown.

import { contactsOf, nameOf } from './contacts.js';

const MOST_KEPT = 2000;
const KEPT_MS = 300000;

export class ContactNames {
  /** Calls `changed()` when a name has arrived. */
  constructor({ changed }) {
    this.changed = changed;
    this.forget();
  }

  forget() {
    this.kept = new Map(); // by contact: the name (undefined: not known yet), and when it was asked for
    this.waiting = [];
    this.isAsking = false;
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
    if (this.isAsking || !this.waiting.length) return;
    this.isAsking = true;
    await undefined; // so that all names of one drawing are asked for together
    const ids = this.waiting;
    this.waiting = [];
    const contacts = await contactsOf(ids, undefined, ids.length).catch(() => []); // then their ids are shown
    this.isAsking = false;
    for (const contact of contacts) {
      const kept = this.kept.get(contact.contactId);
      if (kept) kept.name = nameOf({ ...contact, contactId: undefined });
    }
    if (contacts.length) this.changed();
    this.askNext();
  }
}
