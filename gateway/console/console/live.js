// Turns /api/v1/live into messages, over as many connections as it takes. (EventSource cannot send Authorization.)

import { Problem, query, request } from './api.js';

const FIRST_PAUSE_MS = 1000;
const LAST_PAUSE_MS = 30000;
const STEADY_MS = 5000; // a stream that has stood so long and ends is one that ends from time to time, as each does
const SILENCE_MS = 60000; // heartbeats come more often: who hears nothing for so long has lost the connection

/**
 * Follow what happens until `signal` is aborted.
 *
 * `on.live(isAnew)` when a stream stands, anew when nothing connects it with what was told before; `on.message(event,
 * data)`; `on.lost(problem, pauseMs)` when it has ended and is to come again after a pause. Raises Problem when coming
 * again is of no use.
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
      if (problem.status === 409) lastId = ''; // what was missed is gone
      else if ([400, 401, 403].includes(problem.status)) throw problem;
    }
    failures = performance.now() - stoodAt > STEADY_MS ? 0 : failures + 1;
    const pauseMs = failures ? Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) : 0;
    const waitMs = Math.max(pauseMs, (problem && problem.retryMs) || 0);
    on.lost(problem, waitMs);
    await pause(waitMs, signal);
  }
}

/** The messages of one connection, each once it is whole. */
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

/** A line as name and value. */
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
