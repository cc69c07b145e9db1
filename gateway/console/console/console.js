// The console: sign-in, the address of each view, and the live stream.

import { liveAddress, viewAt, visitAddress, visitIdOf } from './addresses.js';
import { STATES } from './dom.js';
import { VisitorList } from './list.js';
import { follow } from './live.js';
import { ContactNames } from './names.js';
import { PersonView } from './person.js';
import { QualityView } from './quality.js';
import { Search } from './search.js';
import { HealthView } from './health.js';
import { Series, seriesFigure } from './series.js';
import { callerName, callerSites, hasSession, keepAlive, may, resume, signIn, signOut } from './session.js';
import { VisitView } from './visit.js';
import { Visitors } from './visitors.js';

const part = (id) => document.getElementById(id);

const visitors = new Visitors({ changed: () => list.drawSoon() });
const names = new ContactNames({ changed: () => list.drawSoon() });
const list = new VisitorList({
  visitors,
  parts: {
    totals: part('totals'), others: part('others'), form: part('filters'), rows: part('visitors'), held: part('held'), count: part('count'), more: part('more'), empty: part('empty'),
  },
  open: openVisit,
  filtered: (filter) => go(isAt('visit') ? visitAddress(visit.visitId, filter) : liveAddress(filter), { replace: true }),
  nameOf: (contactId) => names.of(contactId),
  readMore: () => visitors.readMore(following.signal).catch((error) => following.signal.aborted || problem(error.message)),
});
const series = new Series(part('totals').parentElement.insertBefore(seriesFigure(), part('filters')), {
  counted: (counts) => visitors.takeCounts(counts),
  needsCounts: () => !visitors.isComplete,
});
const visit = new VisitView(part('visit'), {
  close: () => go(liveAddress(visitors.filter)),
  changed: () => load(following.signal),
  failed: problem,
  rowOf: (visitId) => visitors.known.get(visitId),
  named: (words) => isAt('visit') && entitle([words, visitors.known.get(visit.visitId)?.site].filter(Boolean).join(' · ')),
  may,
});
const person = new PersonView(part('person'), {
  close: () => go(liveAddress(visitors.filter)),
  changed: () => load(following.signal),
  failed: problem,
  named: (words) => isAt('person') && entitle(words),
  me: callerName,
  may,
});
const search = new Search({ input: part('find'), found: part('found'), go, onSite: (text, most) => visitors.find(text, most) });
const quality = new QualityView(part('quality'), { close: () => go(liveAddress(visitors.filter)) });
const health = new HealthView(part('health'), part('to-health'), { close: () => go(liveAddress(visitors.filter)), may });

let following = new AbortController();

/** Go to an address of the console, without loading the page again. */
function go(address, { replace = false } = {}) {
  if (replace) history.replaceState(null, '', address);
  else history.pushState(null, '', address);
  showView();
}

function openVisit(visitId) {
  go(visitAddress(visitId, visitors.filter));
}

function isAt(view) {
  return viewAt(location)?.view === view;
}

/** Show what the address names. */
function showView() {
  if (part('work').hidden) return;
  const { view, id, filters } = viewAt(location) || {};
  const visitId = view === 'visit' ? visitIdOf(id) : undefined;
  const before = visit.visitId;
  for (const name of ['live', 'quality', 'health']) part(`to-${name}`).setAttribute('aria-current', view === name ? 'page' : 'false');
  notice(whyNothing(view, visitId));
  if (filters) {
    list.set(filters);
    series.show(filters);
    visitors.show(filters, following.signal).catch((error) => following.signal.aborted || problem(error.message));
  }
  const personId = view === 'person' ? id : '';
  const isQuality = view === 'quality' && may('read');
  const isHealth = view === 'health' && seesHealth();
  document.body.classList.toggle('has-visit', Boolean(visitId));
  document.body.classList.toggle('has-person', Boolean(personId));
  list.mark(visitId);
  entitle(visitId ? visitTitle(visitId) : personId || (view === 'live' ? liveTitle(filters) : isQuality ? 'Quality' : isHealth ? 'Health' : 'Not found'));
  if ((visitId || '') !== (before || '')) visit.show(visitId || '');
  if (personId !== (person.id || '')) person.show(personId);
  if (isQuality === quality.root.hidden) quality.show(isQuality);
  if (isHealth === health.root.hidden) health.show(isHealth);
  if (!visitId && !personId && !isQuality && !isHealth && before) list.focus(before);
}

/** Whether these credentials may see what concerns all websites. */
function seesHealth() {
  return may('read') && callerSites().length === 0;
}

/** Why there is nothing to see, as a sentence; empty: there is. */
function whyNothing(view, visitId) {
  if (!may('read')) return 'This key may not read. Sign out, and sign in with a key that has the scope “read”.';
  if (view === 'visit' && !visitId) return 'This address names no visit: the id of a visit has 32 hexadecimal digits. Find the person or visit with the box above.';
  if (view === 'health' && !seesHealth()) return 'This key may see some websites only. Health concerns all of them.';
  return view ? '' : 'The console has no page at this address. Find a person or visit with the box above, or go to Live.';
}

function visitTitle(visitId) {
  const known = visitors.known.get(visitId);
  if (!known) return `Visit ${visitId.slice(0, 8)}`;
  return `${(known.contactId && names.of(known.contactId)) || known.identityId || `Visitor ${visitId.slice(0, 8)}`} · ${known.site}`;
}

function liveTitle({ site, state, page }) {
  return ['Live', site, STATES[state], page].filter(Boolean).join(' · ');
}

function entitle(words) {
  document.title = `${words} · Footfall`;
}

/** Show the list of visitors and follow the live stream. */
async function work() {
  following.abort();
  following = new AbortController();
  const { signal } = following;
  visitors.sites = callerSites();
  part('sign-in').hidden = true;
  for (const name of ['work', 'live', 'search', 'to-live', 'to-quality']) part(name).hidden = false;
  part('to-health').hidden = !seesHealth();
  part('caller').hidden = !hasSession();
  part('caller').firstElementChild.textContent = callerName();
  say('', 'Connecting');
  showView();
  if (!may('read')) {
    say('no', 'Not live');
    return;
  }
  series.follow(signal);
  if (seesHealth()) health.follow(signal);
  try {
    await follow(visitors.sites, signal, {
      live: (isNew) => {
        say('yes', 'Live');
        if (isNew) load(signal);
      },
      message: (kind, data) => {
        visitors.tell(kind, data);
        visit.tell(kind === 'transition' ? data.visitor.visitId : data.event.visitID, kind, data);
      },
      quiet: (seconds) => say('old', `No news for ${seconds} s`),
      lost: (error, waitMs) => {
        if (waitMs) say('no', `Not live: ${error ? error.message : 'the stream has ended.'} Reconnecting in ${Math.ceil(waitMs / 1000)} s`);
      },
    });
  } catch (error) {
    if (error.status === 401) ended();
    else say('no', 'Not live'), problem(error.message);
  }
}

async function load(signal) {
  try {
    await visitors.load(signal);
    problem('');
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) ended();
    else problem(error.message);
  }
}

function say(state, text) {
  part('live').className = `live ${state}`;
  if (part('live').textContent !== text) part('live').textContent = text; // a change is announced to screen readers
}

function problem(text) {
  part('list-problem').textContent = text;
}

function notice(text) {
  part('notice').hidden = !text;
  part('notice').textContent = text;
}

/** Ask for credentials, and forget all that was shown. */
function leave(message = '') {
  following.abort();
  visit.show('');
  person.show('');
  quality.show(false);
  health.show(false);
  visitors.forget();
  names.forget();
  list.draw();
  for (const name of ['work', 'live', 'search', 'to-live', 'to-quality', 'to-health', 'caller']) part(name).hidden = true;
  part('sign-in').hidden = false;
  part('sign-in-problem').textContent = message;
  entitle('Sign in');
  part('sign-in-form').elements.user.focus();
}

function ended() {
  if (!part('work').hidden) leave('The session has ended. Sign in again.');
}

async function enter(event) {
  event.preventDefault();
  const { user, secret } = event.target.elements;
  part('sign-in-problem').textContent = '';
  try {
    await signIn(user.value, secret.value);
  } catch (error) {
    part('sign-in-problem').textContent = error.status === 401 ? 'Unknown user, password or token.' : error.message;
    secret.select();
    return;
  }
  secret.value = '';
  work();
}

async function quit() {
  await Promise.all([visit.undo.commit(), person.undo.commit()]); // after it nothing can be sent
  const told = signOut().catch((error) => error);
  leave();
  const error = await told;
  if (error) part('sign-in-problem').textContent = `You are not signed out at the gateway: ${error.message} Close the browser, or sign out again later.`;
}

/** Follow a link to a view without loading the page again. */
function followLink(event) {
  const link = event.target.closest('a[href]');
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (link.target || link.download || link.origin !== location.origin || !viewAt(link) || part('work').hidden) return;
  event.preventDefault();
  if (link.href !== location.href) go(link.href);
}

part('sign-in-form').addEventListener('submit', enter);
part('sign-out').addEventListener('click', quit);
document.addEventListener('click', followLink);
addEventListener('popstate', showView);
addEventListener('hashchange', showView);
keepAlive(ended);

try {
  await resume(); // with GATEWAY_ALLOW_ANONYMOUS no sign-in is needed
  work();
} catch (error) {
  leave(error.status === 401 ? '' : error.message);
}
