// Turns what the console asks into requests of the API, and their answers into JSON or one Problem.

/** What an answer says went wrong. `status` is 0 when there was none; `retryMs` is set when it says when to come again. */
export class Problem extends Error {
  constructor(status, message, retryMs) {
    super(message);
    this.status = status;
    this.retryMs = retryMs;
  }
}

// In memory and not in sessionStorage: whoever gets a script to run in another page of this origin finds nothing, and a
// computer that is left has forgotten it with the page. The price is to sign in again after loading the page anew.
let authorization;

/** Take what is signed in with; nothing signs out. Without a user the secret is a token. */
export function signIn(user, secret) {
  const bytes = new TextEncoder().encode(`${user}:${secret}`);
  authorization = user ? `Basic ${btoa(String.fromCharCode(...bytes))}` : `Bearer ${secret}`;
}

export function signOut() {
  authorization = undefined;
}

/** One request, without any credentials of the browser's own. Raises Problem for every answer but a good one. */
export async function request(path, { method = 'GET', body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (authorization) sent.Authorization = authorization;
  if (body !== undefined) sent['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal, credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'The gateway does not answer.');
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const retryMs = Number(response.headers.get('Retry-After')) * 1000 || undefined;
  throw new Problem(response.status, told.detail || told.message || response.statusText, retryMs);
}

/** The JSON of an answer; undefined when it has none. */
export async function ask(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? undefined : response.json();
}

/** A path in which every id is one segment, whatever it holds. */
export function path(parts, ...ids) {
  return parts.reduce((made, part, number) => made + encodeURIComponent(ids[number - 1]) + part);
}

/** A query of those parameters that are given. */
export function query(parameters) {
  const given = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  return given.size ? `?${given}` : '';
}
