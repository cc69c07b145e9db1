// The console: sign-in, filters, the address and the live stream.

import { Problem, ask, signIn, signOut } from './api.js';
import { follow } from './live.js';
import { element } from './dom.js';
import { VisitView } from './visit.js';
import { Visitors } from './visitors.js';

const part = (id) => document.getElementById(id);
const filters = part('filters').elements;

const visitors = new Visitors({
  rows: part('visitors'),
  count: part('count'),
  empty: part('empty'),
  open: (visitId) => { location.hash = visitId; },
  sites: (names) => part('sites').replaceChildren(...names.map((value) => element('option', { value }))),
});
const visit = new VisitView(part('visit'), {
  close: () => { location.hash = ''; },
  open: (visitId) => { location.hash = visitId; },
  changed: () => load(following.signal),
});

let following = new AbortController();

/** Show the list of visitors and follow the live stream, with the current filters. */
async function work() {
  following.abort();
  following = new AbortController();
  const { signal } = following;
  visitors.filter = { state: filters.state.value, site: filters.site.value.trim() };
  part('sign-in').hidden = true;
  part('work').hidden = part('live').hidden = false;
  say('', 'Connecting');
  try {
    await follow(visitors.filter.site, signal, {
      live: (isNew) => {
        say('yes', 'Live');
        if (isNew) load(signal);
      },
      message: (kind, data) => {
        visitors.tell(kind, data);
        visit.tell(kind === 'transition' ? data.visitor.visitId : data.event.visitID);
      },
      lost: (error, waitMs) => {
        if (waitMs) say('no', `Not live: ${error ? error.message : 'the stream has ended.'} Reconnecting in ${Math.ceil(waitMs / 1000)} s`);
      },
    });
  } catch (error) {
    if (error.status === 401) leave(error.message);
    else say('no', 'Not live'), problem(error.message);
  }
}

async function load(signal) {
  try {
    await visitors.load(signal);
    problem('');
  } catch (error) {
    if (!signal.aborted) problem(error.message);
  }
}

function say(state, text) {
  part('live').className = `live ${state}`;
  if (part('live').textContent !== text) part('live').textContent = text; // a change is announced to screen readers
}

function problem(text) {
  part('list-problem').textContent = text;
}

function leave(message = '') {
  following.abort();
  signOut();
  visit.show('');
  visitors.forget();
  part('work').hidden = part('live').hidden = part('sign-out').hidden = true;
  part('sign-in').hidden = false;
  part('sign-in-problem').textContent = message;
  part('sign-in-form').elements.user.focus();
}

async function enter(event) {
  event.preventDefault();
  const { user, secret } = event.target.elements;
  part('sign-in-problem').textContent = '';
  signIn(user.value, secret.value);
  try {
    await probe();
    secret.value = '';
    part('sign-out').hidden = false;
    start();
  } catch (error) {
    signOut();
    part('sign-in-problem').textContent = error.status === 401 ? 'Unknown user, password or token.' : error.message;
    secret.select();
  }
}

/** Check the credentials with a request. Throws a Problem. */
async function probe() {
  try {
    await ask('/api/v1/visitors?page_size=1');
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 400) throw error; // 400: a valid key that must name a site
  }
}

function start() {
  work();
  showVisit();
}

function showVisit() {
  const visitId = location.hash.slice(1);
  const before = visit.visitId;
  document.body.classList.toggle('has-visit', Boolean(visitId));
  visitors.choose(visitId);
  visit.show(visitId);
  if (!visitId && before) visitors.focus(before);
}

part('sign-in-form').addEventListener('submit', enter);
part('sign-out').addEventListener('click', () => leave());
part('filters').addEventListener('change', work);
part('filters').addEventListener('submit', (event) => event.preventDefault());
addEventListener('hashchange', () => part('work').hidden || showVisit());

try {
  await probe(); // with GATEWAY_ALLOW_ANONYMOUS no sign-in is needed
  start();
} catch (error) {
  leave(error.status === 401 ? '' : error.message);
}
