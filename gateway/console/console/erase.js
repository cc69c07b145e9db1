// Erases a person: says what goes and what stays, asks for the name, erases, looks a second time, and gives a receipt.

import { Problem, ask, path, query } from './api.js';
import { element, seen } from './dom.js';
import { folded } from './journey.js';
import { save } from './save.js';
import { troubleOf } from './source.js';
import { counted, locale, parts, t } from './text.js';

const PENDING_MS = 2000; // until the erasure is asked for again, while history has not done it
const MOST_TRIES = 30;

export class Eraser {
  /** `me()`: the user's name. `done()`: is called when something was erased. */
  constructor({ me, done }) {
    Object.assign(this, { me, done });
    this.root = element('section', { class: 'erase', 'aria-label': t('Erase'), hidden: true });
  }

  close() {
    this.root.hidden = true;
    this.root.replaceChildren();
  }

  /**
   * Ask what to erase of a person: identities with the number of their visits, and the contact, if there is one.
   * `mayEraseContact`: whether the user may. `isMore`: whether the person has more identities.
   */
  open({ name, contact, mayEraseContact, identities, isMore }) {
    const tick = (value, isTicked, ...words) => element('li', {}, element('label', {}, element('input', { type: 'checkbox', name: 'what', value, checked: isTicked }), ' ', words));
    const typed = element('input', { name: 'typed', autocomplete: 'off', required: true });
    const send = element('button', { class: 'danger', disabled: true }, t('Erase for ever'));
    this.said = element('p', { role: 'status' });
    const form = element('form', {},
      element('h3', {}, parts('Erase {name}', { name: element('bdi', {}, name) })),
      element('p', {}, element('strong', {}, t('Goes'))),
      element('ul', {},
        identities.map(({ identityId, visits }) => tick(`identity ${identityId}`, true, parts('the identity {identity}', { identity: element('bdi', {}, identityId) }), visits === undefined ? '' : `, ${counted(visits, 'visit')}`, element('span', { class: 'soft' }, ': ', t('profile, links, live state, interactions, and of its events address, title, data and browser')))),
        contact && mayEraseContact ? tick('contact', false, parts('also the contact {name}, {contact}, of the contact center’s directory', { name: element('bdi', {}, name), contact: element('code', {}, contact.contactId) })) : ''),
      element('p', {}, element('strong', {}, t('Stays'))),
      element('ul', { class: 'soft' },
        contact ? element('li', {}, mayEraseContact ? t('the contact, unless it is ticked') : t('the contact: these credentials may not remove it')) : '',
        isMore ? element('li', {}, t('further identities of the contact: erase these first, then the others')) : '',
        element('li', {}, t('of each event its ids, times, type and site, without the person')),
        element('li', {}, t('the event log, for some minutes: the receipt says until when')),
        element('li', {}, t('a mark that this person was erased, and audit lines: keyed hashes')),
        element('li', {}, t('backups, and other systems such as the shop’s orders'))),
      element('label', {}, element('span', {}, parts('To erase, type {name}', { name: element('strong', {}, name) })), typed),
      element('p', { class: 'actions' }, send, element('button', { type: 'button', class: 'quiet', onclick: () => this.close() }, t('Cancel'))),
      this.said);
    const isName = (text) => (plain(name) ? plain(text) === plain(name) : text === name);
    const plain = (text) => folded(text.replace(/[\p{C}]/gu, ' ')).replace(/\s+/g, ' ').trim();
    form.addEventListener('input', () => {
      send.disabled = !isName(typed.value) || !form.querySelector('[name="what"]:checked');
    });
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const ticked = new Set([...form.querySelectorAll('[name="what"]:checked')].map(({ value }) => value));
      send.disabled = true;
      this.erase({
        name,
        identityIds: identities.map(({ identityId }) => identityId).filter((id) => ticked.has(`identity ${id}`)),
        contact: ticked.has('contact') ? contact : undefined,
        kept: ticked.has('contact') ? undefined : contact,
      }).catch((problem) => {
        if (!(problem instanceof Problem)) throw problem;
        send.disabled = false;
        this.say(t('Not everything is erased. {trouble} Erase again: what is done already stays done.', { trouble: troubleOf(problem, 'identity') }), true);
      });
    });
    this.root.replaceChildren(form);
    this.root.hidden = false;
    this.root.scrollIntoView({ block: 'nearest' });
    typed.focus();
  }

  async erase(what) {
    const { name, identityIds, contact } = what;
    this.say(t('Erasing…'));
    const counts = { visits: 0, events: 0, interactions: 0, links: 0, liveVisits: 0 };
    let cleanTime = 0;
    let pending = 0;
    for (const identityId of identityIds) {
      const erased = await this.eraseIdentity(identityId);
      for (const key of Object.keys(counts)) counts[key] += erased[key] || 0;
      cleanTime = Math.max(cleanTime, erased.logCleanTime);
      pending += erased.history === 'pending' ? 1 : 0;
    }
    if (contact) await ask(path(['/api/v1/contacts/', ''], contact.contactId), { method: 'DELETE' }).catch(unlessMissing);
    this.say(t('Looking a second time…'));
    const erasedAt = Date.now();
    const found = await this.look(identityIds, contact);
    this.receipt({ ...what, name, counts, cleanTime, pending, erasedAt, found });
    this.done();
  }

  /** Erase an identity, and wait for history. Throws a Problem. */
  async eraseIdentity(identityId) {
    const first = await ask(path(['/api/v1/identities/', ''], identityId), { method: 'DELETE' });
    let last = first;
    for (let tried = 1; last.history === 'pending' && tried < MOST_TRIES; tried += 1) {
      this.say(t('Waiting for {service}…', { service: t('history') }));
      await new Promise((resolve) => { setTimeout(resolve, PENDING_MS); });
      last = await ask(path(['/api/v1/identities/', ''], identityId), { method: 'DELETE' });
    }
    return { ...last, links: first.links, liveVisits: first.liveVisits, logCleanTime: Math.max(first.logCleanTime, last.logCleanTime) };
  }

  /** What is still answered about the person: empty if nothing is. Throws a Problem. */
  async look(identityIds, contact) {
    const left = [];
    const check = async (words, address, listOf) => {
      const answer = await ask(address).catch(unlessMissing);
      const list = answer && listOf ? answer[listOf] : answer;
      if (Array.isArray(list) ? list.length : list) left.push(words);
    };
    for (const identityId of identityIds) {
      const presences = ['PRESENT', 'LEFT', 'ENDED'].map((one) => `&presence=${one}`).join('');
      await Promise.all([
        check(t('the identity'), path(['/server/data/identities/', ''], identityId)),
        check(t('visits'), path(['/server/data/identities/', '/visits'], identityId)),
        check(t('events'), path(['/server/data/identities/', '/events'], identityId)),
        check(t('link decisions'), path(['/api/v1/identities/', '/links'], identityId), 'links'),
        check(t('interactions'), `/api/v1/interactions${query({ identityId })}`, 'interactions'),
        check(t('live visitors'), `/api/v1/visitors${query({ identityId })}${presences}`, 'visitors'),
      ]);
    }
    if (contact) await check(t('the contact'), path(['/api/v1/contacts/', ''], contact.contactId));
    return [...new Set(left)];
  }

  receipt({ name, identityIds, contact, kept, counts, cleanTime, pending, erasedAt, found }) {
    const time = (ms) => new Date(ms).toLocaleString(locale, { dateStyle: 'long', timeStyle: 'long' });
    const secondLook = t('Second look');
    const facts = [
      [t('Person'), name],
      [t('Identities erased'), identityIds.join(', ') || t('none')],
      [t('Contact'), contact ? t('{contact}, erased', { contact: contact.contactId }) : kept ? t('{contact}, kept in the contact center’s directory', { contact: kept.contactId }) : t('none was linked')],
      [t('By'), this.me() || t('a user without a name')],
      [t('When'), time(erasedAt)],
      [t('Counts'), [counted(counts.visits, 'visit'), counted(counts.events, 'event'), counted(counts.interactions, 'interaction'), counted(counts.links, 'link decision'), counted(counts.liveVisits, 'live visit')].join(', ')],
      ...(pending ? [[t('History'), t('has not answered; it erases its data by itself. Look again later.')]] : []),
      [secondLook, `${found.length ? t('still found: {what}', { what: found.join(', ') }) : t('nothing found')}, ${t('{time}, by all queries about these ids', { time: time(Date.now()) })}`],
      ...(cleanTime ? [[t('Event log'), t('holds nothing of it any more from {time} on, if history and identity have read it by then', { time: time(cleanTime) })]] : []),
      [t('In the stores'), t('after that time an operator searches all of Redis and MongoDB with: footfall-history verify-erasure -')],
    ];
    const text = [t('Receipt of an erasure'), '', ...facts.map(([key, value]) => `${key}: ${seen(value)}`), ''].join('\n');
    const title = element('h3', { tabindex: '-1' }, t('Receipt of an erasure'));
    this.root.replaceChildren(element('div', { class: 'receipt' },
      title,
      element('dl', {}, facts.flatMap(([key, value]) => [element('dt', {}, key), element('dd', { class: key === secondLook && found.length ? 'problem' : undefined }, value)])),
      element('p', { class: 'soft' }, t('This receipt names the person: keep it where such records are kept.')),
      element('p', { class: 'actions' },
        element('button', { type: 'button', onclick: () => print() }, t('Print')),
        element('button', { type: 'button', class: 'quiet', onclick: () => save(new Blob([text], { type: 'text/plain' }), `${t('erasure')} ${new Date(erasedAt).toISOString().slice(0, 19).replaceAll(':', '-')}.txt`) }, t('Save')),
        element('button', { type: 'button', class: 'quiet', onclick: () => this.close() }, t('Close')))));
    title.focus();
  }

  say(words, isProblem = false) {
    this.said.textContent = words;
    this.said.classList.toggle('problem', isProblem);
  }
}

function unlessMissing(problem) {
  if (problem instanceof Problem && problem.status === 404) return undefined;
  throw problem;
}
