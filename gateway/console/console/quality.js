// The view of quality: how many visits of each day were identified, what too many share, and what to do about it.

import { ask, query } from './api.js';
import { element, table } from './dom.js';
import { SharedParts } from './shared.js';
import { figure, locale, t } from './text.js';

const DAYS = 28;
const DAY_MS = 86400000;
const PAGE_SIZE = 1000; // the API's largest page
const MOST_PAGES = 5; // 28 days of 178 websites

const percent = new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 1 });

const sum = (buckets) => buckets.reduce((total, { count }) => total + count, 0);
const upTo = (buckets, bound) => sum(buckets.filter((one) => one.upTo !== null && one.upTo <= bound));
const part = ({ count, share }) => (share === null ? figure(count) : `${figure(count)} (${percent.format(share)})`);
const ofLinks = (links, name) => (links && links[name] ? part(links[name]) : none());
const partOf = (count, of) => part({ count, share: of ? count / of : null });

// Name, value of a scorecard, and what to do about it.
const MEASURES = [
  [t('Visits'), (card) => figure(card.visits),
    t('If there are far fewer than a week before, look whether the script is still on all pages and beacons are answered.')],
  [t('Anonymous'), (card) => part(card.anonymous),
    t('If it rises after a release, pages no longer send SignIn or UserInfo: open such a visit and look at its events.')],
  [t('Recognized'), (card) => part(card.recognized),
    t('Send SignIn and not only UserInfo where users sign in, because only a SignIn authenticates.')],
  [t('Authenticated'), (card) => part(card.authenticated),
    t('If it falls, SignIn events are missing, or their user ids are ignored: see the ignored user ids.')],
  [t('Proven, of authenticated'), (card) => part(card.proven),
    t('Let the website sign its sign-ins, because any page can send a SignIn without a token.')],
  [t('Identified within a minute, of identified'), ({ recognitionSeconds: { buckets } }) => partOf(upTo(buckets, 60), sum(buckets)),
    t('Send SignIn or UserInfo on the first page on which the user is known.')],
  [t('Visits with an ignored user id'), (card) => part(card.ignored),
    t('Correct the page or template that sends these values; they are listed below.')],
  [t('Devices with several identities'), ({ identitiesPerDevice: { buckets } }) => partOf(sum(buckets) - upTo(buckets, 1), sum(buckets)),
    t('Some are shared computers; many devices with more than five point to kiosks, or agents who sign in for customers.')],
  [t('Identities on more than five devices'), ({ devicesPerIdentity: { buckets } }) => partOf(sum(buckets) - upTo(buckets, 5), sum(buckets)),
    t('An id that many devices send may belong to nobody: correct the page, or add the id to the placeholders of the identity policy.')],
  [t('Linked to a contact, of identities'), ({ links }) => ofLinks(links, 'linked'),
    t('If it falls, sign-ins no longer send the e-mail address, number or name, or contacts are no longer synchronized.')],
  [t('Several contacts match, of identities'), ({ links }) => ofLinks(links, 'ambiguous'),
    t('Merge contacts that are one person, or link the identity by hand.')],
  [t('A value that too many give, of identities'), ({ links }) => ofLinks(links, 'generic'),
    t('Rules did not link by it. The values are listed below.')],
  [t('Used on too many devices, of identities'), ({ links }) => ofLinks(links, 'shared'),
    t('Rules link them only by what a token proves. They are listed below.')],
  [t('Visits with late events'), (card) => partOf(sum(card.lateSeconds.buckets), card.visits),
    t('Many of them point to an outage between browsers and gateway; the events count all the same.')],
  [t('Visits with repeated events'), (card) => partOf(card.repeated, card.visits),
    t('Each event counts once; many repetitions mean that answers of the gateway come late or do not arrive.')],
  [t('Visits with conflicting events'), (card) => partOf(card.conflicts, card.visits),
    t('Let the page make a new eventID for every event, because only the first of two events with one id is stored.')],
];

const REASONS = {
  blank: t('blank'),
  placeholder: t('a placeholder'),
  template: t('a template that was not filled'),
  empty_hash: t('the hash of an empty text'),
};

export class QualityView {
  /** Calls `close()` to leave the view. `may(scope)`, `seesAll()`: of the caller, whether of all websites. */
  constructor(root, { close, may, seesAll }) {
    Object.assign(this, { root, close, may, seesAll });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') close();
    });
  }

  /** Show or hide the view. */
  async show(isShown) {
    this.leaving?.abort();
    this.leaving = new AbortController();
    this.root.hidden = !isShown;
    document.body.classList.toggle('has-quality', isShown);
    this.root.replaceChildren();
    if (!isShown) return;
    const title = element('h2', { tabindex: '-1' }, t('Quality of identification'));
    this.site = element('input', { name: 'quality-site', list: 'quality-sites', placeholder: t('the largest'), autocomplete: 'off', onchange: () => this.load() });
    this.sites = element('datalist', { id: 'quality-sites' });
    this.said = element('p', { role: 'status' });
    this.content = element('div', {});
    const shared = element('div', {});
    this.root.append(
      element('div', { class: 'bar' }, title, element('label', { class: 'site' }, t('Site'), ' ', this.site), this.sites,
        element('button', { type: 'button', class: 'quiet', onclick: this.close }, t('Close'))),
      this.said,
      this.content,
      shared,
    );
    title.focus();
    if (this.seesAll()) new SharedParts(shared, this.may).load(this.leaving.signal);
    await this.load();
  }

  /** Read and draw the scorecards of the last weeks. */
  async load() {
    const { signal } = this.leaving;
    const turn = this.turn = {};
    try {
      const cards = await this.read(this.site.value.trim(), signal);
      if (signal.aborted || turn !== this.turn) return;
      this.draw(cards);
    } catch (problem) {
      if (signal.aborted || turn !== this.turn) return;
      this.content.replaceChildren();
      this.say(problem.message, true);
    }
  }

  async read(site, signal) {
    const from = new Date(Date.now() - DAYS * DAY_MS).toISOString().slice(0, 10);
    const cards = [];
    let token;
    for (let page = 0; page < MOST_PAGES && token !== null; page += 1) {
      const answer = await ask(`/api/v1/quality${query({ site, from, page_size: PAGE_SIZE, page_token: token })}`, { signal });
      cards.push(...answer.scorecards);
      token = answer.nextPageToken;
    }
    return cards;
  }

  draw(cards) {
    const lastDay = cards.length ? cards.at(-1).day : '';
    const ofLastDay = cards.filter(({ day }) => day === lastDay);
    if (!this.site.value) {
      const names = [...new Set(cards.map(({ site }) => site))].sort();
      this.sites.replaceChildren(...names.map((value) => element('option', { value })));
    }
    const largest = ofLastDay.reduce((one, other) => (other.visits > one.visits ? other : one), ofLastDay[0]);
    if (!largest) {
      this.content.replaceChildren();
      this.say(t('No day has been counted yet. A day is counted an hour after its end in UTC.'));
      return;
    }
    const days = cards.filter(({ site }) => site === largest.site).reverse();
    const [card] = days;
    const weekBefore = days.find(({ day }) => Date.parse(card.day) - Date.parse(day) === 7 * DAY_MS);
    const facts = { site: card.site, day: card.day };
    this.say(card.isFinal ? t('{site} on {day} (UTC).', facts) : t('{site} on {day} (UTC), without events that have not arrived yet.', facts));
    this.content.replaceChildren(
      measures(['', card.day, t('A week before'), t('What to do')], MEASURES.map(([name, value, advice]) => (
        [name, value(card), weekBefore ? value(weekBefore) : none(), advice]))),
      ...ignoredPart(card),
      ...histogramPart(t('Visits that were identified, by seconds from their first event'), card.recognitionSeconds),
      ...histogramPart(t('Devices by number of identities'), card.identitiesPerDevice),
      ...histogramPart(t('Identities by number of devices'), card.devicesPerIdentity),
      element('h3', {}, t('By day')),
      headed([t('Day'), ...MEASURES.map(([name]) => name)], days.map((each) => [each.day, ...MEASURES.map(([, value]) => value(each))])),
    );
  }

  say(text, isProblem = false) {
    this.said.textContent = text;
    this.said.className = isProblem ? 'problem' : 'soft';
  }
}

function ignoredPart({ ignoredUserIds, ignoredPlaceholders }) {
  if (!ignoredUserIds.length) return [];
  return [
    element('h3', {}, t('Ignored user ids')),
    headed([t('The user id is'), t('Visits')], [
      ...ignoredUserIds.map(({ reason, visits }) => [REASONS[reason] || reason, figure(visits)]),
      ...ignoredPlaceholders.map(({ value, visits }) => [element('code', {}, value), figure(visits)]),
    ]),
  ];
}

function histogramPart(name, { buckets, sampledOneIn }) {
  const total = sum(buckets);
  if (!total) return [];
  const rows = buckets.map(({ upTo: bound, count }, number) => {
    const label = bound === null ? t('more than {count}', { count: figure(buckets[number - 1].upTo) }) : t('up to {count}', { count: figure(bound) });
    return [label, figure(count), element('meter', { min: 0, max: total, value: count, 'aria-label': percent.format(count / total) })];
  });
  return [
    element('h3', {}, name),
    headed(['', t('Number'), ''], rows),
    sampledOneIn > 1 ? element('p', { class: 'soft' }, t('Estimated from one in {count}.', { count: figure(sampledOneIn) })) : '',
  ].filter(Boolean);
}

function none() {
  return element('span', { class: 'soft' }, '–');
}

/** A table with advice in its last column. */
function measures(heads, rows) {
  const made = headed(heads, rows);
  made.classList.add('measures');
  return made;
}

/** A table whose region is named by its heads, with the first cell of each row as its head. */
function headed(heads, rows) {
  return table(heads.filter(Boolean).join(', '), heads, rows, true);
}
