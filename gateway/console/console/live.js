// Messages of /api/v1/live, with reconnects. (EventSource cannot send the header of a session.)

import { Problem, query, request } from './api.js';
import { t } from './text.js';

const FIRST_PAUSE_MS = 1000;
const LAST_PAUSE_MS = 30000;
const STEADY_MS = 5000; // a stream that lasted this long has ended normally, so the pause does not grow
const QUIET_MS = 20000; // longer than the usual interval of heartbeats: what is shown may be old
const SILENCE_MS = 60000; // without anything for so long the connection is lost

/**
 * Follow the live stream of what meets a filter (`site`, `visitId`), until `signal` is aborted.
 *
 * Calls `on.live(isNew)` when a stream is connected (`isNew`: it does not continue an earlier one), and again after
 * silence, `on.message(event, data)`, `on.quiet(seconds)` each second while nothing arrives, not even a heartbeat, and
 * `on.lost(problem, pauseMs)` when the stream has ended and reconnects after a pause. Throws a Problem when a reconnect
 * cannot help.
 */
export async function follow(filter, signal, on) {
  let lastId = '';
  let failures = 0;
  while (!signal.aborted) {
    let problem;
    let stoodAt = Infinity;
    const silence = new Silence(on);
    try {
      for await (const message of messages(filter, lastId, signal, silence)) {
        if (message.id && stoodAt === Infinity) {
          stoodAt = performance.now();
          on.live(!lastId);
        }
        if (message.event) on.message(message.event, JSON.parse(message.data));
        lastId = message.id || lastId;
      }
    } catch (error) {
      if (signal.aborted) return;
      problem = error instanceof Problem ? error : new Problem(0, t('The connection was lost.'));
      if (problem.status === 409) lastId = ''; // the missed messages are no longer available
      else if ([400, 401, 403].includes(problem.status)) throw problem;
    } finally {
      silence.end();
    }
    failures = performance.now() - stoodAt > STEADY_MS ? 0 : failures + 1;
    const pauseMs = failures ? Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) : 0;
    const waitMs = Math.max(pauseMs, (problem && problem.retryMs) || 0);
    on.lost(problem, waitMs);
    await pause(waitMs, signal);
  }
}

/** How long nothing has arrived. `signal` is aborted when that is too long. */
class Silence {
  constructor(on) {
    this.controller = new AbortController();
    this.signal = this.controller.signal;
    this.heardAt = performance.now();
    this.isQuiet = false;
    this.on = on;
    this.watching = setInterval(() => this.watch(), 1000);
  }

  watch() {
    const ms = performance.now() - this.heardAt;
    if (ms >= SILENCE_MS) this.controller.abort();
    if (ms < QUIET_MS) return;
    this.isQuiet = true;
    this.on.quiet(Math.floor(ms / 1000));
  }

  heard() {
    this.heardAt = performance.now();
    if (this.isQuiet) this.on.live(false);
    this.isQuiet = false;
  }

  end() {
    clearInterval(this.watching);
  }
}

/** The messages of one connection. */
async function* messages(filter, lastId, signal, silence) {
  const headers = lastId ? { 'Last-Event-ID': lastId } : {};
  const either = AbortSignal.any([signal, silence.signal]);
  const response = await request(`/api/v1/live${query({ ...filter, pages: 'true' })}`, { headers, signal: either, timeoutMs: 0 });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    silence.heard();
    const blocks = (text + read.value).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) yield Object.fromEntries(block.split('\n').map(field));
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
