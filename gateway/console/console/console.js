// The console: sign-in, the address of each view, and the live stream.

import { liveAddress, viewAt, visitAddress, visitIdOf } from './addresses.js';
import { Attention } from './attention.js';
import { isCompact, postHeight, takeLink } from './compact.js';
import { DirectoryView, SHOWN_WORDS } from './directory.js';
import { STATES } from './dom.js';
import { VisitorList } from './list.js';
import { follow } from './live.js';
import { ContactNames } from './names.js';
import { PersonView } from './person.js';
import { QualityView } from './quality.js';
import { Search } from './search.js';
import { HealthView } from './health.js';
import { Series, seriesFigure } from './series.js';
import { callerName, callerSites, hasSession, keepAlive, may, resume, signIn, signOut, useLink } from './session.js';
import { t, translate } from './text.js';
import { VisitView } from './visit.js';
import { Visitors } from './visitors.js';

const part = (id) => document.getElementById(id);

translate(document);

const attention = new Attention();
const visitors = new Visitors({ changed: () => list.drawSoon(), attention });
const names = new ContactNames({ changed: () => { list.drawSoon(); if (!part('found').hidden) search.draw(); } });
const list = new VisitorList({
  visitors,
  parts: {
    totals: part('totals'), others: part('others'), needs: part('needs'), form: part('filters'), announced: part('announced'),
    rows: part('visitors'), held: part('held'), count: part('count'), more: part('more'), empty: part('empty'),
  },
  open: openVisit,
  filtered: (filter) => go(isAt('visit') ? visitAddress(visit.visitId, filter) : liveAddress(filter), { replace: true }),
  nameOf: (contactId) => names.of(contactId),
  readMore: () => visitors.readMore(following.signal).catch((error) => following.signal.aborted || problem(error.message)),
  drawBeside: (places) => series.drawBeside(places),
});
const series = new Series(part('totals').parentElement.insertBefore(seriesFigure(), part('filters')), {
  counted: (counts) => visitors.takeCounts(counts),
  needsCounts: () => !visitors.isComplete,
});
const visit = new VisitView(part('visit'), {
  close: () => isCompact || go(liveAddress(visitors.filter)),
  changed: () => load(following.signal),
  failed: problem,
  rowOf: (visitId) => visitors.known.get(visitId),
  isCompact,
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
const search = new Search({ input: part('find'), found: part('found'), go, onSite: (text, most) => visitors.find(text, most), nameOf: (contactId) => names.of(contactId) });
const directory = new DirectoryView(part('contacts'), { close: () => go(liveAddress(visitors.filter)), go, may, seesAll: seesHealth, failed: problem });
const quality = new QualityView(part('quality'), { close: () => go(liveAddress(visitors.filter)), may, seesAll: seesHealth });
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
  const { view, id, show, filters } = viewAt(location) || {};
  const visitId = view === 'visit' ? visitIdOf(id) : undefined;
  const before = visit.visitId;
  for (const name of ['live', 'contacts', 'quality', 'health']) part(`to-${name}`).setAttribute('aria-current', view === name ? 'page' : 'false');
  notice(whyNothing(view, visitId));
  if (filters && !isCompact) {
    list.set(filters);
    series.show(filters);
    visitors.show(filters, following.signal).catch((error) => following.signal.aborted || problem(error.message));
  }
  const personId = view === 'person' ? id : '';
  const isContacts = view === 'contacts' && may('read');
  const isQuality = view === 'quality' && may('read');
  const isHealth = view === 'health' && seesHealth();
  document.body.classList.toggle('has-visit', Boolean(visitId));
  document.body.classList.toggle('has-person', Boolean(personId));
  list.mark(visitId);
  entitle(visitId ? visitTitle(visitId) : personId || (view === 'live' ? liveTitle(filters) : isContacts ? contactsTitle(id, show) : isQuality ? t('Quality') : isHealth ? t('Health') : t('Not found')));
  if ((visitId || '') !== (before || '')) visit.show(visitId || '');
  if (personId !== (person.id || '')) person.show(personId);
  directory.show(isContacts ? { text: id, show } : undefined);
  if (isQuality === quality.root.hidden) quality.show(isQuality);
  if (isHealth === health.root.hidden) health.show(isHealth);
  if (!visitId && !personId && !isContacts && !isQuality && !isHealth && before) list.focus(before);
}

/** Whether these credentials may see what concerns all websites. */
function seesHealth() {
  return may('read') && callerSites().length === 0;
}

/** Why there is nothing to see, as a sentence; empty: there is. */
function whyNothing(view, visitId) {
  if (!may('read')) return t('This key may not read. Sign out, and sign in with a key that has the scope “read”.');
  if (view === 'visit' && !visitId) return t('This address names no visit: the id of a visit has 32 hexadecimal digits. Find the person or visit with the box above.');
  if (view === 'health' && !seesHealth()) return t('This key may see some websites only. Health concerns all of them.');
  return view ? '' : t('The console has no page at this address. Find a person or visit with the box above, or go to Live.');
}

function visitTitle(visitId) {
  const known = visitors.known.get(visitId);
  if (!known) return t('Visit {id}', { id: visitId.slice(0, 8) });
  return `${(known.contactId && names.of(known.contactId)) || known.identityId || t('Visitor {id}', { id: visitId.slice(0, 8) })} · ${known.site}`;
}

function liveTitle({ site, state, page, look }) {
  return [t('Live'), site, STATES[state], page, look && t('Needs a look')].filter(Boolean).join(' · ');
}

function contactsTitle(text, show) {
  return [t('Contacts'), text || SHOWN_WORDS[show]].filter(Boolean).join(' · ');
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
  for (const name of ['work', 'live', ...(isCompact ? [] : ['search', 'to-live', 'to-contacts', 'to-quality'])]) part(name).hidden = false;
  part('to-health').hidden = isCompact || !seesHealth();
  part('caller').hidden = isCompact || !hasSession();
  part('caller').firstElementChild.textContent = callerName();
  say('', t('Connecting'));
  showView();
  if (!may('read')) {
    say('no', t('Not live'));
    return;
  }
  if (isCompact && !visit.visitId) return;
  if (!isCompact) {
    attention.load(signal).then(() => list.drawSoon(), () => {}); // the live stream reports errors
    series.follow(signal);
    if (seesHealth()) health.follow(signal);
  }
  try {
    await follow({ site: visitors.sites, visitId: isCompact ? visit.visitId : '' }, signal, {
      live: (isNew) => {
        say('yes', t('Live'));
        if (isNew) load(signal);
      },
      message: (kind, data) => {
        if (!isCompact) visitors.tell(kind, data);
        if (kind === 'transition') directory.tell(data.visitor);
        visit.tell(kind === 'transition' ? data.visitor.visitId : data.event.visitID, kind, data);
      },
      quiet: (seconds) => say('old', t('No news for {seconds} s', { seconds })),
      lost: (error, waitMs) => {
        const trouble = error ? error.message : t('the stream has ended.');
        if (waitMs) say('no', t('Not live: {trouble} Reconnecting in {seconds} s', { trouble, seconds: Math.ceil(waitMs / 1000) }));
      },
    });
  } catch (error) {
    if (error.status === 401) ended();
    else say('no', t('Not live')), problem(error.message);
  }
}

async function load(signal) {
  if (isCompact) return;
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
  directory.show();
  directory.forget();
  quality.show(false);
  health.show(false);
  visitors.forget();
  names.forget();
  attention.forget();
  list.draw();
  for (const name of ['work', 'live', 'search', 'to-live', 'to-contacts', 'to-quality', 'to-health', 'caller']) part(name).hidden = true;
  if (isCompact) {
    part('work').hidden = false;
    notice(message || t('This view needs a link that has not been used. Open it again from your desktop.'));
    return;
  }
  part('sign-in').hidden = false;
  part('sign-in-problem').textContent = message;
  entitle(t('Sign in'));
  part('sign-in-form').elements.user.focus();
}

function ended() {
  if (!part('work').hidden) leave(isCompact ? t('The session has ended. Open this view again from your desktop.') : t('The session has ended. Sign in again.'));
}

async function enter(event) {
  event.preventDefault();
  const { user, secret } = event.target.elements;
  part('sign-in-problem').textContent = '';
  try {
    await signIn(user.value, secret.value);
  } catch (error) {
    part('sign-in-problem').textContent = error.status === 401 ? t('Unknown user, password or token.') : error.message;
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
  if (error) part('sign-in-problem').textContent = t('You are not signed out at the gateway: {trouble} Close the browser, or sign out again later.', { trouble: error.message });
}

/** Follow a link to a view without loading the page again. */
function followLink(event) {
  const link = event.target.closest('a[href]');
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (link.target || link.download || link.origin !== location.origin || !viewAt(link) || part('work').hidden) return;
  if (isCompact) {
    link.target = '_blank'; // the frame shows this one visit
    link.rel = 'noopener';
    return;
  }
  event.preventDefault();
  if (link.href !== location.href) go(link.href);
}

part('sign-in-form').addEventListener('submit', enter);
part('sign-out').addEventListener('click', quit);
document.addEventListener('click', followLink);
addEventListener('popstate', showView);
addEventListener('hashchange', showView);
keepAlive(ended);

document.body.classList.toggle('is-compact', isCompact);
if (isCompact) postHeight();
try {
  const link = isCompact && takeLink();
  if (link) await useLink(link);
  else await resume(); // with GATEWAY_ALLOW_ANONYMOUS no sign-in is needed
  work();
} catch (error) {
  leave([401, 404].includes(error.status) ? '' : error.message); // 404: the link has been used
}
