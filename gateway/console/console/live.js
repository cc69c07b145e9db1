// Messages of /api/v1/live, with reconnects. (EventSource cannot send Authorization.)

import { Problem, query, request } from './api.js';

const FIRST_PAUSE_MS = 1000;
const LAST_PAUSE_MS = 30000;
const STEADY_MS = 5000; // a stream that lasted this long has ended normally, so the pause does not grow
const SILENCE_MS = 60000; // longer than the interval of heartbeats: without one the connection is lost

/**
 * Follow the live stream until `signal` is aborted.
 *
 * Calls `on.live(isNew)` when a stream is connected (`isNew`: it does not continue an earlier one), `on.message(event,
 * data)`, and `on.lost(problem, pauseMs)` when it has ended and reconnects after a pause. Throws a Problem when a
 * reconnect cannot help.
 */
export async function follow(site, signal, on) {
  let lastId = '';
  let failures = 0;
  while (!signal.aborted) {
    let problem;
    let stoodAt = Infinity;
    try {
      for await (const message of messages(site, lastId, signal)) {
        if (message.id && stoodAt === Infinity) {
          stoodAt = performance.now();
          on.live(!lastId);
        }
        if (message.event) on.message(message.event, JSON.parse(message.data));
        lastId = message.id || lastId;
      }
    } catch (error) {
      if (signal.aborted) return;
      problem = error instanceof Problem ? error : new Problem(0, 'The connection was lost.');
      if (problem.status === 409) lastId = ''; // the missed messages are no longer available
      else if ([400, 401, 403].includes(problem.status)) throw problem;
    }
    failures = performance.now() - stoodAt > STEADY_MS ? 0 : failures + 1;
    const pauseMs = failures ? Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) : 0;
    const waitMs = Math.max(pauseMs, (problem && problem.retryMs) || 0);
    on.lost(problem, waitMs);
    await pause(waitMs, signal);
  }
}

/** The messages of one connection. */
async function* messages(site, lastId, signal) {
  const silence = new AbortController();
  let watching = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const headers = lastId ? { 'Last-Event-ID': lastId } : {};
    const either = AbortSignal.any([signal, silence.signal]);
    const response = await request(`/api/v1/live${query({ site })}`, { headers, signal: either });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      clearTimeout(watching);
      watching = setTimeout(() => silence.abort(), SILENCE_MS);
      const blocks = (text + read.value).split('\n\n');
      text = blocks.pop();
      for (const block of blocks) yield Object.fromEntries(block.split('\n').map(field));
    }
  } finally {
    clearTimeout(watching);
  }
}

/** Name and value of a line. */
function field(line) {
  const colon = line.indexOf(':');
  return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
