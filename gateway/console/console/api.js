// Requests to the API. A response becomes JSON, or a Problem.

import { t } from './text.js';

let session = '1'; // the cookie signs in

const TIMEOUT_MS = 30000; // until an answer begins; longer than the gateway's own limits

/** An error response. `status` is 0 without a response; `retryMs` is set by Retry-After. */
export class Problem extends Error {
  constructor(status, message, retryMs) {
    super(message);
    this.status = status;
    this.retryMs = retryMs;
  }
}

/** Sign in by the token of a session from now on, and not by a cookie. */
export function signInBy(token) {
  session = token;
}

/**
 * Send a request, signed in by the session. Throws a Problem unless the response is a 2xx.
 *
 * The header makes the cookie count: pages of other origins cannot send it. `timeoutMs`: the most until the answer
 * begins; 0: any time.
 */
export async function request(path, { method = 'GET', body, headers = {}, signal, timeoutMs = TIMEOUT_MS } = {}) {
  const sent = { 'X-Footfall-Session': session, ...headers };
  if (body !== undefined) sent['Content-Type'] = 'application/json';
  const late = new AbortController();
  const waiting = timeoutMs ? setTimeout(() => late.abort(), timeoutMs) : undefined;
  const either = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal: either, credentials: 'same-origin', keepalive: method !== 'GET' });
  } catch (error) {
    if (late.signal.aborted && !(signal && signal.aborted)) throw new Problem(0, t('The gateway has not answered for {seconds} s.', { seconds: timeoutMs / 1000 }));
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, t('The gateway does not answer. Check the network connection.'));
  } finally {
    clearTimeout(waiting);
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

/** A query with the parameters that have a value; a list repeats its parameter. */
export function query(parameters) {
  const given = new URLSearchParams();
  for (const [name, values] of Object.entries(parameters)) {
    for (const value of [values].flat().filter(Boolean)) given.append(name, value);
  }
  return given.size ? `?${given}` : '';
}
