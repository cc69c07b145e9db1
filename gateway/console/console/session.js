// Who works at this console, and what he or she may do. The session is a cookie that no script can read; in a frame, where
// browsers keep cookies back, a token that a link has given.

import { Problem, ask, signInBy } from './api.js';

const PATH = '/api/v1/session';
const CONTINUE_MS = 60000; // the user's activity is reported once in this time at most
const ACTIVITY = ['pointerdown', 'pointermove', 'keydown', 'wheel', 'touchstart'];

let caller;

/** Find the session of this browser. Throws a Problem; with status 401 there is none. */
export async function resume() {
  caller = await ask(PATH);
}

/** Begin a session by a link, which can be used once. Throws a Problem. */
export async function useLink(token) {
  caller = await ask(`${PATH}/links/use`, { method: 'POST', body: { token } });
  signInBy(caller.session);
}

/** Begin a session. Without a user, the secret is an API key's token. Throws a Problem. */
export async function signIn(user, secret) {
  const bytes = new TextEncoder().encode(`${user}:${secret}`);
  const Authorization = user ? `Basic ${btoa(String.fromCharCode(...bytes))}` : `Bearer ${secret}`;
  caller = await ask(PATH, { method: 'POST', headers: { Authorization } });
}

/** End the session, in all tabs. Throws a Problem when the gateway does not know of it. */
export async function signOut() {
  caller = undefined;
  try {
    await ask(PATH, { method: 'DELETE' });
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 401) throw error; // 401: it has ended already
  }
}

/** The name of the key, or the user. */
export function callerName() {
  return caller ? caller.name : '';
}

/** Whether there is a session that can be ended: not with GATEWAY_ALLOW_ANONYMOUS. */
export function hasSession() {
  return Boolean(caller && caller.idleSeconds);
}

/** The websites that the caller may see. Empty: all. */
export function callerSites() {
  return caller ? caller.sites : [];
}

/** Whether the caller may do what needs this scope. Changes concern all sites, so a key of some sites may make none. */
export function may(scope) {
  return Boolean(caller) && caller.scopes.includes(scope) && (scope === 'read' || caller.sites.length === 0);
}

/** Let the session go on while its user is active; without that it ends. Calls `ended(problem)` when it has. */
export function keepAlive(ended) {
  let last = Date.now();
  const act = async () => {
    if (!hasSession() || Date.now() - last < Math.min(CONTINUE_MS, caller.idleSeconds * 250)) return;
    last = Date.now();
    try {
      await ask(PATH, { method: 'POST' });
    } catch (error) {
      if (error.status === 401) ended(error);
    }
  };
  for (const kind of ACTIVITY) addEventListener(kind, act, { passive: true, capture: true });
}
