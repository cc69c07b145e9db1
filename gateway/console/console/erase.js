// Erases a person: says what goes and what stays, asks for the name, erases, looks a second time, and gives a receipt.

import { Problem, ask, path, query } from './api.js';
import { counted, element, seen } from './dom.js';
import { folded } from './journey.js';
import { save } from './save.js';
import { troubleOf } from './source.js';

const PENDING_MS = 2000; // until the erasure is asked for again, while history has not done it
const MOST_TRIES = 30;

export class Eraser {
  /** `me()`: the user's name. `done()`: is called when something was erased. */
  constructor({ me, done }) {
    Object.assign(this, { me, done });
    this.root = element('section', { class: 'erase', 'aria-label': 'Erase', hidden: true });
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
    const send = element('button', { class: 'danger', disabled: true }, 'Erase for ever');
    this.said = element('p', { role: 'status' });
    const form = element('form', {},
      element('h3', {}, 'Erase ', element('bdi', {}, name)),
      element('p', {}, element('strong', {}, 'Goes')),
      element('ul', {},
        identities.map(({ identityId, visits }) => tick(`identity ${identityId}`, true, 'the identity ', element('bdi', {}, identityId), visits === undefined ? '' : `, ${counted(visits, 'visit')}`, element('span', { class: 'soft' }, ': profile, links, live state, interactions, and of its events address, title, data and browser'))),
        contact && mayEraseContact ? tick('contact', false, 'also the contact ', element('bdi', {}, name), ', ', element('code', {}, contact.contactId), element('span', { class: 'soft' }, ', of the contact center’s directory')) : ''),
      element('p', {}, element('strong', {}, 'Stays')),
      element('ul', { class: 'soft' },
        contact ? element('li', {}, mayEraseContact ? 'the contact, unless it is ticked' : 'the contact: these credentials may not remove it') : '',
        isMore ? element('li', {}, 'further identities of the contact: erase these first, then the others') : '',
        element('li', {}, 'of each event its ids, times, type and site, without the person'),
        element('li', {}, 'the event log, for some minutes: the receipt says until when'),
        element('li', {}, 'a mark that this person was erased, and audit lines: keyed hashes'),
        element('li', {}, 'backups, and other systems such as the shop’s orders')),
      element('label', {}, 'To erase, type ', element('strong', {}, name), typed),
      element('p', { class: 'actions' }, send, element('button', { type: 'button', class: 'quiet', onclick: () => this.close() }, 'Cancel')),
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
        this.say(`Not everything is erased. ${troubleOf(problem, 'identity')} Erase again: what is done already stays done.`, true);
      });
    });
    this.root.replaceChildren(form);
    this.root.hidden = false;
    this.root.scrollIntoView({ block: 'nearest' });
    typed.focus();
  }

  async erase(what) {
    const { name, identityIds, contact } = what;
    this.say('Erasing…');
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
    this.say('Looking a second time…');
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
      this.say('Waiting for history…');
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
        check('the identity', path(['/server/data/identities/', ''], identityId)),
        check('visits', path(['/server/data/identities/', '/visits'], identityId)),
        check('events', path(['/server/data/identities/', '/events'], identityId)),
        check('link decisions', path(['/api/v1/identities/', '/links'], identityId), 'links'),
        check('interactions', `/api/v1/interactions${query({ identityId })}`, 'interactions'),
        check('live visitors', `/api/v1/visitors${query({ identityId })}${presences}`, 'visitors'),
      ]);
    }
    if (contact) await check('the contact', path(['/api/v1/contacts/', ''], contact.contactId));
    return [...new Set(left)];
  }

  receipt({ name, identityIds, contact, kept, counts, cleanTime, pending, erasedAt, found }) {
    const time = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: 'long', timeStyle: 'long' });
    const facts = [
      ['Person', name],
      ['Identities erased', identityIds.join(', ') || 'none'],
      ['Contact', contact ? `${contact.contactId}, erased` : kept ? `${kept.contactId}, kept in the contact center’s directory` : 'none was linked'],
      ['By', this.me() || 'a user without a name'],
      ['When', time(erasedAt)],
      ['Counts', [counted(counts.visits, 'visit'), counted(counts.events, 'event'), counted(counts.interactions, 'interaction'), counted(counts.links, 'link decision'), counted(counts.liveVisits, 'live visit')].join(', ')],
      ...(pending ? [['History', 'has not answered; it erases its data by itself. Look again later.']] : []),
      ['Second look', `${found.length ? `still found: ${found.join(', ')}` : 'nothing found'}, ${time(Date.now())}, by all queries about these ids`],
      ...(cleanTime ? [['Event log', `holds nothing of it any more from ${time(cleanTime)} on, if history and identity have read it by then`]] : []),
      ['In the stores', 'after that time an operator searches all of Redis and MongoDB with: footfall-history verify-erasure -'],
    ];
    const text = ['Receipt of an erasure', '', ...facts.map(([key, value]) => `${key}: ${seen(value)}`), ''].join('\n');
    const title = element('h3', { tabindex: '-1' }, 'Receipt of an erasure');
    this.root.replaceChildren(element('div', { class: 'receipt' },
      title,
      element('dl', {}, facts.flatMap(([key, value]) => [element('dt', {}, key), element('dd', { class: key === 'Second look' && found.length ? 'problem' : undefined }, value)])),
      element('p', { class: 'soft' }, 'This receipt names the person: keep it where such records are kept.'),
      element('p', { class: 'actions' },
        element('button', { type: 'button', onclick: () => print() }, 'Print'),
        element('button', { type: 'button', class: 'quiet', onclick: () => save(new Blob([text], { type: 'text/plain' }), `erasure ${new Date(erasedAt).toISOString().slice(0, 19).replaceAll(':', '-')}.txt`) }, 'Save'),
        element('button', { type: 'button', class: 'quiet', onclick: () => this.close() }, 'Close'))));
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
