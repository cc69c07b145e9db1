// Draws the list of visitors: totals and who needs a look, which are filters, the other filters, and rows that keep their
// place while the user points.

import { lookWords } from './attention.js';
import { ago, badge, element, moment, place, shortened, span, stateWords } from './dom.js';
import { patchChildren } from './patch.js';
import { counted, figure, parts, t } from './text.js';
import { ANY, isGone } from './visitors.js';

const DRAW_MS = 500; // changes within this time are drawn together
const ROWS = 100; // drawn at first, and more at the end of the list
const MOST_TOTALS = 4;
const HELD_MS = 10000; // a pointer that rests for so long does not hold the order
const COLUMNS = ['state', 'page', 'stay', 'last', 'site'];
const TOTALS = [['', t('here')], ['AUTHENTICATED', t('authenticated')], ['RECOGNIZED', t('recognized')], ['ANONYMOUS', t('anonymous')]];
const STATE_NAMES = Object.fromEntries(TOTALS);

const calm = matchMedia('(prefers-reduced-motion: reduce)');

export class VisitorList {
  /**
   * `parts`: the elements totals, others, needs, form, announced, rows, held, count, more, empty. Calls `open(visitId)`
   * for the visit that the user chooses, and `filtered(filter)` when the user has changed the filters.
   * `nameOf(contactId)`: a name, if known. `readMore()`: reads further visitors, at the end of the list.
   * `drawBeside(places)`: draws the last hour of websites, in elements by website.
   */
  constructor({ visitors, parts, open, filtered, nameOf, readMore, drawBeside }) {
    Object.assign(this, { visitors, open, filtered, nameOf, readMore, drawBeside }, parts);
    this.drawn = new Map(); // by visit: its row, and what the row shows
    this.most = ROWS;
    this.pointedAt = -Infinity;
    this.isForced = false;
    this.rows.addEventListener('keydown', (event) => this.move(event));
    this.rows.addEventListener('pointermove', () => { this.pointedAt = performance.now(); });
    this.rows.addEventListener('pointerleave', () => { this.pointedAt = -Infinity; this.draw(); });
    this.rows.addEventListener('focusout', () => this.drawSoon());
    this.form.addEventListener('input', (event) => event.target.type !== 'search' || this.read());
    this.form.addEventListener('change', () => this.read());
    this.form.addEventListener('submit', (event) => event.preventDefault());
    this.totals.addEventListener('click', (event) => this.choose(event.target.closest('button')));
    this.needs.addEventListener('click', (event) => this.look(event.target.closest('button')));
    this.empty.addEventListener('click', (event) => this.choose(event.target.closest('button')));
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.drawMore()).observe(this.more);
    setInterval(() => this.drawSoon(), 5000); // "ago", and for how long
  }

  /** Show these filters in the form. */
  set(filter) {
    const { state, site, page, sort, look, bots } = this.form.elements;
    if (JSON.stringify(filter) !== JSON.stringify(this.visitors.filter)) {
      this.most = ROWS;
      this.isForced = true;
    }
    this.drawSites(filter.site);
    state.value = filter.state;
    site.value = filter.site;
    sort.value = filter.sort;
    look.value = filter.look;
    bots.checked = Boolean(filter.bots);
    if (page !== document.activeElement) page.value = filter.page;
  }

  /** Take the filters of the form. */
  read() {
    const { state, site, page, sort, look, bots } = this.form.elements;
    this.filtered({ state: state.value, site: site.value, page: page.value.trim(), sort: sort.value, look: look.value, bots: bots.checked ? '1' : '' });
  }

  /** Take the filter of a button; one that is pressed already shows all. */
  choose(button) {
    if (!button) return;
    const { state, site, page, look, bots } = this.form.elements;
    const isPressed = button.getAttribute('aria-pressed') === 'true';
    state.value = isPressed ? '' : button.dataset.state;
    site.value = isPressed ? '' : button.dataset.site;
    if (button.dataset.page !== undefined) {
      page.value = look.value = '';
      bots.checked = false;
    }
    this.read();
  }

  /** Show only who needs a look for the reason of a button; one that is pressed already shows all. */
  look(button) {
    if (!button) return;
    this.form.elements.look.value = button.getAttribute('aria-pressed') === 'true' ? '' : button.dataset.look;
    this.read();
  }

  drawSoon() {
    this.drawing ||= setTimeout(() => this.draw(), DRAW_MS);
  }

  async drawMore() {
    if (this.most >= this.visitors.shown().length) {
      if (this.visitors.isComplete) return;
      await this.readMore();
    }
    this.most += ROWS;
    this.draw();
  }

  draw() {
    clearTimeout(this.drawing);
    this.drawing = undefined;
    const all = this.visitors.shown();
    const wanted = all.slice(0, this.most);
    const changes = this.isHeld() ? this.wouldChange(wanted) : undefined;
    if (changes && changes.moved + changes.come) {
      for (const visitId of this.drawn.keys()) this.drawRow(this.visitors.known.get(visitId));
      this.sayHeld(changes);
    } else {
      this.arrange(wanted);
      this.held.hidden = true;
    }
    this.count.textContent = this.visitors.isRead ? this.counted(all, wanted) : '';
    this.sayNone(all);
    if (this.isForced) this.announced.textContent = this.empty.hidden ? this.count.textContent : this.empty.dataset.text;
    this.isForced = false;
    this.drawTotals();
    this.drawNeeds();
    this.drawSites(this.visitors.filter.site);
  }

  /** While the user points at a row or has it in focus, rows keep their places. */
  isHeld() {
    if (this.isForced) return false;
    return this.rows.matches(':focus-within') || performance.now() - this.pointedAt < HELD_MS;
  }

  /** How many rows would have another place among the others, and how many would come or go. */
  wouldChange(wanted) {
    const before = [...this.drawn.keys()];
    const after = wanted.map(({ visitId }) => visitId);
    const stays = new Set(after.filter((visitId) => this.drawn.has(visitId)));
    const common = before.filter((visitId) => stays.has(visitId));
    const moved = after.filter((visitId) => stays.has(visitId)).filter((visitId, number) => visitId !== common[number]).length;
    return { moved, come: after.length - stays.size + before.length - stays.size };
  }

  sayHeld({ moved, come }) {
    const news = [moved && t('{count} would move', { count: figure(moved) }), come === 1 && t('one has come or gone'), come > 1 && t('{count} have come or gone', { count: figure(come) })].filter(Boolean).join(', ');
    const text = this.rows.matches(':focus-within') ? t('Order held while a row has the focus: {news}.', { news }) : t('Order held while you point at the list: {news}.', { news });
    const said = this.held.firstElementChild;
    if (said.textContent !== text) said.textContent = text;
    this.held.hidden = false;
  }

  /** Draw these rows in this order. Only rows in a wrong place are moved, so that the others keep hover and focus. */
  arrange(wanted) {
    const rows = wanted.map((visitor) => this.drawRow(visitor));
    const stays = new Set(rows);
    const before = this.drawn;
    this.drawn = new Map(wanted.map(({ visitId }) => [visitId, before.get(visitId)]));
    for (const { row } of before.values()) {
      if (!stays.has(row)) row.remove();
    }
    const focused = document.activeElement;
    rows.forEach((row, number) => {
      if (this.rows.children[number] !== row) this.rows.insertBefore(row, this.rows.children[number] || null);
    });
    if (document.activeElement !== focused && this.rows.contains(focused)) focused.focus({ preventScroll: true });
  }

  counted(all, wanted) {
    const { known, isComplete, counts } = this.visitors;
    const visitors = counted(all.length, 'visitor');
    const shown = wanted.length < all.length ? t('the first {count} of {visitors}', { count: figure(wanted.length), visitors }) : visitors;
    if (isComplete) return shown;
    const inAll = counts && t('{count} are here', { count: figure(counts.total.here) });
    return [shown, inAll, t('of more visitors, the {count} who came last are read', { count: figure(known.size) })].filter(Boolean).join('; ');
  }

  sayNone(all) {
    const { state, site, page, look, bots } = this.visitors.filter;
    const text = [
      bots ? t('No robot is here') : t('Nobody is here'),
      look && t('who needs a look'),
      state && t('who is {state}', { state: STATE_NAMES[state] || state }),
      site && t('on the site {site}', { site }),
      page && t('on a page with “{page}”', { page }),
    ].filter(Boolean).join(' ');
    this.empty.hidden = all.length > 0 || !this.visitors.isRead;
    if (this.empty.hidden || this.empty.dataset.text === text) return;
    this.empty.dataset.text = text;
    this.empty.replaceChildren(`${text}. `, state || site || page || look || bots
      ? element('button', { type: 'button', class: 'quiet', 'data-state': '', 'data-site': '', 'data-page': '' }, t('Show all'))
      : element('a', { href: '/demo/' }, t('Open the demo shop to see yourself here.')));
  }

  /** Draw a line a site. Its buttons stay the same elements, so that no click on a number that changes is lost. */
  drawTotals() {
    const totals = this.visitors.totals();
    const shown = totals.slice(0, MOST_TOTALS);
    const rest = totals.slice(MOST_TOTALS);
    if (!rest.length) shown.sort((one, other) => (one.site < other.site ? -1 : 1));
    while (this.totals.children.length > shown.length) this.totals.lastElementChild.remove();
    while (this.totals.children.length < shown.length) {
      this.totals.append(element('li', {}, TOTALS.map(() => element('button', { type: 'button' }, element('strong', {}), element('span', {}))), element('span', { class: 'hour soft' })));
    }
    shown.forEach((total, number) => TOTALS.forEach(([state, words], place) => {
      this.drawTotal(this.totals.children[number].children[place], total, state, `${figure(total[state || 'here'])} ${words}`);
    }));
    // The line of the only website is that of all.
    if (shown.length > 1) this.drawBeside(new Map(shown.map(({ site }, number) => [site, this.totals.children[number].lastChild])));
    const unnamed = this.visitors.unnamed();
    const others = rest.reduce((sum, { here }) => sum + here, unnamed);
    const values = { count: figure(others), sites: figure(rest.length) };
    this.others.textContent = unnamed ? t('and {count} here on other sites', values) : rest.length > 1 ? t('and {count} here on {sites} other sites', values)
      : rest.length ? t('and {count} here on another site', values) : '';
  }

  /** Draw how many need a look, and why. */
  drawNeeds() {
    const { all, byRule } = this.visitors.needs();
    const { look } = this.visitors.filter;
    const button = (name, words) => element('button', { type: 'button', class: 'total', 'data-key': name, 'data-look': name, 'aria-pressed': String(look === name) }, words);
    this.needs.hidden = !all && !look;
    patchChildren(this.needs, [
      button(ANY, t('Needs a look ({count})', { count: figure(all) })),
      ...[...byRule].filter(([, count]) => count).map(([name, count]) => button(name, `${figure(count)} ${t(name)}`)),
      look && look !== ANY && !byRule.get(look) ? button(look, `${figure(0)} ${t(look)}`) : '',
    ]);
    const { botCount } = this.visitors;
    const { bots } = this.form.elements;
    bots.nextElementSibling.textContent = t('robots ({count})', { count: figure(botCount) });
    bots.closest('label').hidden = !botCount && !bots.checked;
  }

  drawTotal(button, { site }, state, text) {
    const { filter } = this.visitors;
    const [name, number] = button.children;
    button.className = `total ${state.toLowerCase()}`.trim();
    Object.assign(button.dataset, { site, state });
    button.setAttribute('aria-pressed', String(site === filter.site && state === filter.state));
    name.hidden = Boolean(state);
    if (name.textContent !== `${site} `) Object.assign(name, { textContent: `${site} `, title: site });
    if (number.textContent !== text) number.textContent = text;
  }

  drawSites(chosen) {
    const names = this.visitors.siteNames();
    const select = this.form.elements.site;
    const shown = names.join('\n');
    if (select.dataset.shown === shown) return;
    select.dataset.shown = shown;
    select.replaceChildren(element('option', { value: '' }, t('all')), ...names.map((name) => element('option', { value: name }, name)));
    select.value = chosen;
  }

  /** Draw the row of a visitor. Only cells that show something else are made again, so that a selection stays. */
  drawRow(visitor) {
    if (!visitor) return undefined; // no longer known: the row stays as it is until rows may change
    const drawn = this.drawn.get(visitor.visitId) || this.newRow(visitor.visitId);
    const isChosen = visitor.visitId === this.chosen;
    drawn.row.classList.toggle('chosen', isChosen);
    drawn.row.classList.toggle('has-left', Boolean(isGone(visitor)));
    drawn.button.setAttribute('aria-expanded', String(isChosen));
    const looks = lookWords(this.visitors.attention.of(visitor));
    this.drawWho(visitor, drawn);
    this.cells(visitor, looks).forEach(([name, shown, make], number) => {
      const key = JSON.stringify(shown);
      if (drawn.shown[name] === key) return;
      drawn.shown[name] = key;
      drawn.row.children[number + 1].replaceWith(element('td', { class: `of-${name}` }, make()));
    });
    const news = JSON.stringify([visitor.state, visitor.identityId, visitor.url, visitor.title]);
    if (drawn.news !== undefined && drawn.news !== news && !calm.matches) drawn.row.animate([{ backgroundColor: 'var(--news)' }, {}], 1500);
    drawn.news = news;
    return drawn.row;
  }

  newRow(visitId) {
    const button = element('button', { type: 'button', class: 'who' });
    const more = element('span', { class: 'soft more' });
    const row = element('tr', { onclick: () => this.open(visitId) },
      element('th', { scope: 'row', class: 'of-who' }, element('div', { class: 'whose' }, button, more)), COLUMNS.map(() => element('td', {})));
    const drawn = { row, button, more, shown: {} };
    this.drawn.set(visitId, drawn);
    return drawn;
  }

  /** The first cell stays the same element, because its button may have the focus. */
  drawWho(visitor, { button, more, shown }) {
    const { visitId, identityId, contactId, contactStatus, contactCandidates } = visitor;
    const name = contactId ? this.nameOf(contactId) : undefined;
    const state = stateWords(visitor.state, visitor.assurance);
    const key = JSON.stringify([name, identityId, contactId, contactStatus, contactCandidates, state]);
    if (shown.who === key) return;
    shown.who = key;
    const title = [name, identityId, contactId].filter(Boolean).join(', ');
    button.replaceChildren(
      title ? element('span', { title }, name || identityId || contactId) : element('span', { class: 'soft' }, t('Visitor')), ' ', shortened(visitId),
      element('span', { class: 'unseen' }, ', ', state)); // what is pressed says it too
    more.classList.toggle('hint', !name && ['AMBIGUOUS', 'RECOGNIZED_ONLY'].includes(contactStatus));
    more.replaceChildren(...(name && identityId ? [element('span', { title }, identityId)] : [{
      AMBIGUOUS: contactCandidates ? t('{count} contacts match', { count: figure(contactCandidates) }) : t('several contacts match'),
      RECOGNIZED_ONLY: t('looks like a contact'),
    }[contactStatus] || '']));
  }

  /** The other cells of a row: name, what is shown, and how that is made. */
  cells({ presence, leaveTime, state, assurance, site, url, title, pageEnterTime, eventName, lastEventTime }, looks) {
    const left = presence === 'LEFT' ? leaveTime || lastEventTime : undefined;
    const stay = !left && pageEnterTime ? span(Date.now() - pageEnterTime) : '–';
    const since = ago(lastEventTime);
    return [
      ['state', [state, assurance], () => badge(state, assurance)],
      ['page', [url, title, looks], () => [
        looks ? [element('span', { class: 'look', title: looks }, looks), ' '] : '', url ? element('span', { title: url }, String(title || place(url))) : none()]],
      ['stay', stay, () => stay],
      ['last', [left, eventName, since], () => (left ? parts('left {time}', { time: moment(left) }) : [eventName || '', element('span', { class: 'soft' }, ` ${since}`)])],
      ['site', site, () => element('span', { title: site }, site)],
    ];
  }

  /** Mark the open visit; without an id mark none. */
  mark(visitId) {
    this.chosen = visitId;
    this.draw();
  }

  /** Focus the row of a visit, if it is still in the list. */
  focus(visitId) {
    const drawn = this.drawn.get(visitId);
    if (drawn) drawn.button.focus();
  }

  /** Move the focus between rows with the arrow keys. */
  move(event) {
    const step = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
    const row = step && event.target.closest('tr')[step];
    if (!row) return;
    event.preventDefault();
    row.querySelector('button').focus();
  }
}

/** The content of an empty cell. */
function none() {
  return element('span', { class: 'soft' }, '–');
}
