// Requests to the API. A response becomes JSON, or a Problem.

/** An error response. `status` is 0 without a response; `retryMs` is set by Retry-After. */
export class Problem extends Error {
  constructor(status, message, retryMs) {
    super(message);
    this.status = status;
    this.retryMs = retryMs;
  }
}

// In memory, not in sessionStorage: scripts of other pages of this origin cannot read it, and it ends with the page.
// The price: users sign in again after a reload.
let authorization;

/** Use these credentials for requests. Without a user, the secret is an API key's token. */
export function signIn(user, secret) {
  const bytes = new TextEncoder().encode(`${user}:${secret}`);
  authorization = user ? `Basic ${btoa(String.fromCharCode(...bytes))}` : `Bearer ${secret}`;
}

export function signOut() {
  authorization = undefined;
}

/** Send a request, without the browser's own credentials. Throws a Problem unless the response is a 2xx. */
export async function request(path, { method = 'GET', body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (authorization) sent.Authorization = authorization;
  if (body !== undefined) sent['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal, credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'The gateway does not answer. Check the network connection.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const retryMs = Number(response.headers.get('Retry-After')) * 1000 || undefined;
  throw new Problem(response.status, problem.detail || problem.message || response.statusText, retryMs);
}

/** The JSON of a response; undefined for a 204. */
export async function ask(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? undefined : response.json();
}

/** A path in which every id is encoded as one segment. */
export function path(parts, ...ids) {
  return parts.reduce((made, part, number) => made + encodeURIComponent(ids[number - 1]) + part);
}

/** A query with the parameters that have a value. */
export function query(parameters) {
  const given = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  return given.size ? `?${given}` : '';
}
