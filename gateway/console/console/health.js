// The view of health, for operators: what works, what does not, what that means, and what a person must do. A dot in the
// navigation says the same in one word.

import { Problem, ask, query } from './api.js';
import { ago, element, moment, span, table } from './dom.js';
import { patchChildren } from './patch.js';
import { counted, figure, parts, t } from './text.js';

const LOOK_MS = 5000; // while the view is open
const GLANCE_MS = 15000; // for the dot alone
const TIMEOUT_MS = 5000;
const MOST_LETTERS = 20;
const PART_NAMES = { gateway: 'Gateway', collector: 'Collector', identity: 'Identity', history: 'History', relay: 'Relay', redis: 'Redis', mongodb: 'MongoDB' };
const STATES = { ok: t('well'), failed: t('failed'), unknown: t('not known') };
// What parts say. What is not here stays English.
const SAYS = {
  'serves': t('serves'),
  'answers': t('answers'),
  'it starts': t('it starts'),
  'it stops': t('it stops'),
  'it does not serve': t('it does not serve'),
  'a store does not answer': t('a store does not answer'),
  'Redis does not answer': t('Redis does not answer'),
  'MongoDB does not answer': t('MongoDB does not answer'),
  'does not answer the gateway': t('does not answer the gateway'),
  'history does not say': t('history does not say'),
  'the event log is full': t('the event log is full'),
  'builds live state again: visitors who have signed in may be shown as Anonymous': t('builds live state again: visitors who have signed in may be shown as Anonymous'),
};
const SILENT = /^it does not answer \((\w+)\)$/;
// By code, what a person must do.
const PROBLEMS = {
  history_lags: ({ count }) => t('History is {count} s behind: queries lack the newest events.', { count: figure(count) }),
  log_fills: ({ count }) => t('The event log has {count}% of the memory it may have. At 100% beacons are refused.', { count: figure(count) }),
  dead_letters: ({ count }) => t('Events that could not be stored: {count}. Repair what is wrong, then replay.', { count: figure(count) }),
  gaps: ({ count }) => t('MongoDB has lost data that the event log no longer holds either. Gaps: {count}.', { count: figure(count) }),
  entries_lost: () => t('Entries have left the event log unread: another program removed them, or Redis has lost data.'),
  store_went_back: () => t('A store has gone back to an earlier state.'),
  relay_silent: () => t('The relay no longer reports: outlets get nothing.'),
  outlets_lag: ({ count }) => t('Outlets of the relay are {count} s behind, together.', { count: figure(count) }),
  outlets_lost: ({ count }) => t('Outlets have lost entries of the event log, which does not wait longer for them: {count}.', { count: figure(count) }),
  outlet_dead_letters: ({ count }) => t('Outlets did not take messages. Dead letters: {count}.', { count: figure(count) }),
  background_work_failed: ({ count }) => t('Work beside serving has failed unexpectedly, {count} times. The logs have the stack: report it.', { count: figure(count) }),
};
// By code, why events are refused. The message of an example is English.
const REFUSALS = {
  malformed: t('not readable as an event'),
  invalid_event_name: t('no name of the event, or one that is too long'),
  invalid_event_id: t('no id of the event, or no UUID'),
  invalid_visit_id: t('no id of the visit, or no UUID'),
  invalid_global_visit_id: t('the id of the device is no UUID'),
  invalid_page_id: t('the id of the page is too long, or has control characters'),
  invalid_user_id: t('names no user'),
  invalid_timestamp: t('no time, or one that cannot be'),
  too_old: t('happened too long ago'),
  too_large: t('too large'),
  invalid_url: t('the address is too long'),
  invalid_text: t('category or language is too long'),
  invalid_data: t('the data are no JSON object, or too large'),
  unknown_site: t('an unknown website, or an origin that it does not allow'),
  bot: t('a robot, and the website refuses robots'),
};
const SHOW = '.venv/bin/footfall-history dead-letters show --data ID';

const n = (value) => (value === null || value === undefined ? t('not known') : figure(value));
const megabytes = (bytes) => `${figure(Math.round(bytes / 1048576))} MB`;
const ms = (value) => (value === null ? '–' : value < 1000 ? `${n(value)} ms` : `${figure(Math.round(value / 100) / 10)} s`);

export class HealthView {
  /** `link`: the entry in the navigation, which gets the dot. Calls `close()` to leave. `may(scope)`: of the caller. */
  constructor(root, link, { close, may }) {
    Object.assign(this, { root, link, close, may });
    root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') close();
    });
    root.addEventListener('click', (event) => this.act(event.target.closest('button')));
    this.dot();
  }

  /** Look from now on, until `signal` is aborted. */
  follow(signal) {
    this.signal = signal;
    this.answer = this.letters = this.trouble = this.answeredAt = undefined;
    signal.addEventListener('abort', () => clearTimeout(this.looking), { once: true });
    this.look();
  }

  /** Show or hide the view. */
  show(isShown) {
    this.root.hidden = !isShown;
    document.body.classList.toggle('has-health', isShown);
    this.root.replaceChildren();
    clearInterval(this.ticking);
    if (!isShown) return;
    this.title = element('h2', { tabindex: '-1' });
    this.looked = element('span', { class: 'soft' });
    this.said = element('p', { class: 'said', role: 'status' });
    this.content = element('div', {});
    this.root.append(
      element('div', { class: 'bar' }, this.title, this.looked,
        element('button', { type: 'button', class: 'quiet', 'data-do': 'copy' }, t('Copy for a ticket')),
        element('button', { type: 'button', class: 'quiet', 'data-do': 'close' }, t('Close'))),
      this.said,
      this.content,
    );
    this.draw();
    this.title.focus();
    this.ticking = setInterval(() => this.tick(), 1000);
    if (this.signal && !this.signal.aborted) this.look();
  }

  /** Ask now, and again after a while. */
  async look() {
    clearTimeout(this.looking);
    const { signal } = this;
    const turn = this.turn = {};
    if (!document.hidden) {
      try {
        const answer = await ask('/api/v1/health', { signal, timeoutMs: TIMEOUT_MS });
        if (turn !== this.turn || signal.aborted) return;
        Object.assign(this, { answer, trouble: undefined, answeredAt: Date.now() });
        if (!this.root.hidden && answer.backlog.deadLetters) this.readLetters();
      } catch (problem) {
        if (turn !== this.turn || signal.aborted) return;
        if (!(problem instanceof Problem)) throw problem;
        this.trouble = [sentence(problem.message), ...(problem.status >= 500 ? await reasons(signal) : [])].join(' ');
        if (turn !== this.turn || signal.aborted) return;
      }
      this.dot();
      this.draw();
    }
    this.looking = setTimeout(() => this.look(), this.root.hidden ? GLANCE_MS : LOOK_MS);
  }

  /** The state in one word, also for the dot. */
  get word() {
    if (this.trouble) return t('Health is not known');
    if (!this.answer) return t('Looking');
    const { length } = this.answer.problems;
    return length ? counted(length, 'thing needs you', 'things need you') : t('All well');
  }

  get state() {
    if (this.trouble || !this.answer) return 'unknown';
    return this.answer.problems.length ? 'attention' : 'well';
  }

  dot() {
    const key = `${this.state} ${this.word}`;
    if (this.link.dataset.shown === key) return;
    this.link.dataset.shown = key;
    this.link.title = this.word;
    this.link.replaceChildren(`${t('Health')} `, element('span', { class: `dot ${this.state}`, 'aria-hidden': 'true' }), element('span', { class: 'unseen' }, this.word));
  }

  tick() {
    if (!this.answer) return;
    const { since } = this.answer;
    const when = ago(this.answeredAt);
    this.looked.replaceChildren(...(since ? parts('counts since {time}, looked {when}', { time: moment(since), when }) : parts('looked {when}', { when })));
  }

  draw() {
    if (this.root.hidden) return;
    patchChildren(this.title, [element('span', { class: `dot ${this.state}`, 'aria-hidden': 'true' }), document.createTextNode(` ${this.word}`)]);
    const old = this.answeredAt ? ` ${t('Shown is what it said {when}.', { when: ago(this.answeredAt) })}` : '';
    this.say(this.trouble ? `${this.trouble}${old}` : this.done || '', Boolean(this.trouble));
    this.content.classList.toggle('old', Boolean(this.trouble));
    this.tick();
    if (this.answer) patchChildren(this.content, this.sections(this.answer));
  }

  say(text, isProblem) {
    this.said.className = isProblem ? 'said problem' : 'said soft';
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  sections({ problems, parts: suite, backlog, events, speed, starts }) {
    return [
      ...problems.map((problem) => problemPart(problem, suite)),
      element('div', { class: 'beside' },
        element('div', { class: 'parts' }, element('h3', {}, t('Parts')),
          table(t('Parts'), [t('Part'), t('State'), t('Beacons'), t('Queries'), t('Processes'), t('Last start')], suite.map(partRow), true)),
        element('div', {}, element('h3', {}, t('What waits')), waits(backlog))),
      ...(events ? [eventParts(events)] : []),
      ...this.letterParts(backlog.deadLetters),
      ...(speed ? speedParts(speed) : []),
      ...(starts ? startParts(starts) : []),
    ];
  }

  letterParts(count) {
    if (!count) return [];
    const mayReplay = this.may('ingest');
    const act = (what, id, words) => element('button', { type: 'button', class: 'quiet', 'data-do': what, 'data-id': id, 'data-key': what }, words);
    const rows = (this.letters || []).map(({ deadLetterId: id, createTime, site, eventName, reason, problem, event }) => [
      moment(createTime), site || '–', eventName || '–', reason,
      problem === reason ? t('repair it first') : problem || '',
      !mayReplay ? '' : [problem ? '' : act('replay', id, t('Replay')), ' ', event ? act('repair', id, t('Repair')) : ''],
    ]);
    return [
      element('h3', {}, t('Dead letters: {count}', { count: n(count) })),
      element('p', { class: 'soft' }, t('These events could not be stored. Repair the cause or the event, then replay it. What a visitor has sent in an event only the command shows:')),
      commandPart(SHOW),
      this.letters ? table(t('Dead letters'), [t('Since'), t('Site'), t('Event'), t('Reason'), t('What is wrong'), ''], rows) : '',
      mayReplay ? element('p', {}, element('button', { type: 'button', class: 'quiet', 'data-do': 'replay-all' }, t('Replay all'))) : '',
      element('div', { 'data-kept': true, 'data-key': 'repair' }),
    ].filter(Boolean);
  }

  /** Ask how to change the event of a dead letter. What is typed stays while the rest is drawn again. */
  openRepair(id) {
    const { event } = this.letters.find(({ deadLetterId }) => deadLetterId === id);
    const field = (name, label) => element('label', {}, label, ' ', element('input', { name, autocomplete: 'off', spellcheck: 'false', required: name === 'field' }));
    const form = element('form', { class: 'repair', 'aria-label': t('Repair') },
      element('p', {}, t('Fields of the event that are about no person:')),
      element('pre', {}, JSON.stringify(event, null, 2)),
      element('p', { class: 'actions' }, field('field', t('Field')), field('value', t('Value as JSON, empty to remove it')),
        element('button', { class: 'quiet' }, t('Change')), ' ',
        element('button', { type: 'button', class: 'quiet', 'data-do': 'end-repair' }, t('Cancel'))),
      element('p', { class: 'problem', role: 'alert' }));
    form.addEventListener('submit', (submitted) => {
      submitted.preventDefault();
      this.repair(id, form);
    });
    this.content.querySelector('[data-key="repair"]').replaceChildren(form);
    form.elements.field.focus();
  }

  async repair(deadLetterId, form) {
    const { field, value } = form.elements;
    const name = field.value.trim();
    const change = value.value.trim() ? { set: { [name]: jsonOrText(value.value) } } : { drop: [name] };
    try {
      const { problem } = await ask('/api/v1/dead-letters:repair', { method: 'POST', body: { deadLetterId, ...change } });
      form.remove();
      this.tell(problem ? t('Changed. Still wrong: {problem}', { problem }) : t('Changed. It can be replayed now.'));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      form.lastElementChild.textContent = t('Not changed: {trouble}', { trouble: problem.message });
      return;
    }
    this.look();
  }

  async readLetters() {
    const { signal } = this;
    const answer = await ask(`/api/v1/dead-letters${query({ page_size: MOST_LETTERS })}`, { signal, timeoutMs: TIMEOUT_MS }).catch(() => undefined);
    if (!answer || signal.aborted) return;
    this.letters = answer.deadLetters;
    this.draw();
  }

  async act(button) {
    const what = button && button.dataset.do;
    if (what === 'close') this.close();
    if (what === 'copy') this.copy(this.ticket(), t('The state of health is copied.'));
    if (what === 'copy-command') this.copy(button.dataset.text, t('The command is copied.'));
    if (what === 'replay') this.replay({ deadLetterIds: [button.dataset.id] });
    if (what === 'repair') this.openRepair(button.dataset.id);
    if (what === 'end-repair') button.closest('form').remove();
    if (what === 'replay-all') this.replay({ all: true });
  }

  async replay(body) {
    this.tell(t('Replaying…'));
    try {
      const { replayedIds, refused } = await ask('/api/v1/dead-letters:replay', { method: 'POST', body });
      const stay = refused.length ? ` ${t('{count} not: {problem}.', { count: figure(refused.length), problem: refused[0].problem })}` : '';
      this.tell(`${t('{count} replayed.', { count: figure(replayedIds.length) })}${stay}`);
      this.letters = this.letters && this.letters.filter(({ deadLetterId }) => !replayedIds.includes(deadLetterId));
    } catch (problem) {
      this.tell(t('Not replayed: {trouble}', { trouble: problem.message }));
    }
    this.look();
  }

  async copy(text, done) {
    try {
      await navigator.clipboard.writeText(text);
      this.tell(done);
    } catch {
      this.tell(t('The browser does not allow copying.'));
    }
  }

  tell(text) {
    this.done = text;
    this.draw();
  }

  /** All of it as text, in English. */
  ticket() {
    const { answer } = this;
    const lines = [`Footfall at ${location.origin}, ${new Date().toISOString()}: ${answer && !this.trouble ? answer.word : 'health is not known'}`];
    if (this.trouble) lines.push(this.trouble);
    if (!answer) return lines.join('\n');
    const at = (time) => (time ? new Date(time).toISOString() : 'not known');
    lines.push(`State of ${at(answer.time)}, counts since ${at(answer.since)}`, '');
    for (const { text, commands, page } of answer.problems) lines.push(`! ${text}`, ...commands.map((command) => `    ${command}`), `    ${page}`);
    for (const one of answer.parts) lines.push(`${PART_NAMES[one.name]}: ${one.state}, ${one.says}`);
    lines.push('', 'What waits:', JSON.stringify(answer.backlog));
    if (answer.events) {
      const { slices, refused, ...counts } = answer.events;
      lines.push('', 'Events:', JSON.stringify(counts));
      for (const { reason, count, example } of refused) lines.push(`refused ${reason}: ${count}${example ? `, last ${at(example.time)} ${example.message}` : ''}`);
    }
    if (answer.speed) lines.push('', 'Speed:', JSON.stringify(answer.speed));
    for (const { part, host, time, before, endTime } of answer.starts || []) lines.push(`${at(time)} ${part} started on ${host}${before ? `, the one before ${before} at ${at(endTime)}` : ''}`);
    return lines.join('\n');
  }
}

function jsonOrText(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`;
}

/** Why services do not serve, asked without a session, which needs Redis. */
async function reasons(signal) {
  try {
    const answer = await fetch('/readyz', { signal });
    return Object.entries((await answer.json()).reasons).map(([name, reason]) => `${PART_NAMES[name] || name}: ${saying(reason)}.`);
  } catch {
    return [];
  }
}

function saying(text) {
  const silent = SILENT.exec(text);
  return silent ? t('it does not answer ({code})', { code: silent[1] }) : SAYS[text] || text;
}

function problemPart(problem, suite) {
  const { code, part, text, commands, page } = problem;
  const failed = code === 'part_failed' && suite.find(({ name }) => name === part);
  const words = failed
    ? t('{part} has a problem: {says}. Beacons: {beacons}. Queries: {queries}.', { part: PART_NAMES[part], says: saying(failed.says), beacons: t(failed.beacons), queries: t(failed.queries) })
    : Object.hasOwn(PROBLEMS, code) ? PROBLEMS[code](problem) : text;
  return element('div', { class: 'must-do' }, element('p', {}, element('strong', {}, words)), commands.map(commandPart),
    element('p', { class: 'soft' }, t('What to do:'), ' ', element('code', {}, page)));
}

function commandPart(command) {
  return element('p', { class: 'command' }, element('code', {}, command),
    element('button', { type: 'button', class: 'quiet', 'data-do': 'copy-command', 'data-text': command, 'aria-label': t('Copy {command}', { command }) }, t('Copy')));
}

function partRow({ name, state, says, beacons, queries, processes, startTime }) {
  const dot = element('span', { class: `dot ${{ ok: 'well', failed: 'attention' }[state] || 'unknown'}`, 'aria-hidden': 'true' });
  const effect = (words) => element('span', { class: words === 'as usual' ? 'usual' : undefined }, t(words));
  return [PART_NAMES[name], [dot, ` ${STATES[state]}: ${saying(says)}`], effect(beacons), effect(queries), processes === null ? '–' : n(processes), startTime ? moment(startTime) : '–'];
}

function waits({ historyLagSeconds, identityUnreadEntries, logBytes, logBoundBytes, slowVisits, deadLetters, oldestDeadLetterTime }) {
  const lag = historyLagSeconds === null ? t('not known') : historyLagSeconds < 1 ? t('less than 1 s') : span(historyLagSeconds * 1000);
  const log = logBytes === null ? t('not known') : t('{size} of {bound}', { size: megabytes(logBytes), bound: megabytes(logBoundBytes) });
  return list([
    [t('History is behind by'), lag],
    [t('Entries that identity has not read'), n(identityUnreadEntries)],
    [t('Event log'), log],
    [t('Slow visits'), n(slowVisits)],
    [t('Dead letters'), oldestDeadLetterTime ? parts('{count}, the oldest from {time}', { count: n(deadLetters), time: moment(oldestDeadLetterTime) }) : n(deadLetters)],
  ]);
}

function eventParts({ stored, suppressed, unavailable, refused, duplicate, unstorable, dropped, lostByBrowsers, beaconsRefused, slices }) {
  const all = refused.reduce((sum, { count }) => sum + count, 0);
  const errors = Object.entries(beaconsRefused).map(([status, count]) => t('{count} with {status}', { count: n(count), status })).join(', ');
  const counts = element('div', {}, element('h3', {}, t('Events')), bars(slices),
    list([
      [t('Stored'), n(stored)],
      [t('Refused'), n(all)],
      [t('Suppressed, because the visitor objects'), n(suppressed)],
      [t('To come again'), n(unavailable)],
      [t('Came again, stored once'), n(duplicate)],
      [t('Became dead letters'), n(unstorable)],
      [t('Dropped'), n(dropped)],
      [t('Lost by browsers'), n(lostByBrowsers)],
      [t('Beacons answered with an error'), errors || '0'],
    ]));
  const heads = [t('Refused because'), t('Number'), t('Last'), t('Site'), t('Event'), t('What is wrong')];
  return element('div', { class: 'beside' }, counts, refused.length
    ? element('div', {}, element('h3', {}, t('Refused events')), table(t('Refused events'), heads, refused.map(refusedRow), true)) : '');
}

function refusedRow({ reason, count, example }) {
  const { time, site, eventName, message } = example || {};
  return [[element('code', {}, reason), element('span', { class: 'soft' }, ' ', REFUSALS[reason] || '')], n(count), time ? moment(time) : '–', site || '–', eventName || '–', message ? element('span', { lang: 'en' }, message) : '–'];
}

/** Stored and refused events by ten minutes: a bar each, and the same in words. */
function bars(slices) {
  const most = Math.max(0, ...slices.map(({ stored, refused }) => stored + refused));
  const height = (count) => ((100 * count) / (most || 1)).toFixed(1);
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const picture = svg('svg', { viewBox: `0 0 ${Math.max(36, slices.length)} 100`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    ...slices.flatMap(({ stored, refused }, number) => [
      svg('rect', { class: 'stored', x: number, y: 100 - height(stored + refused), width: 0.8, height: height(stored) }),
      svg('rect', { class: 'refused', x: number, y: 100 - height(refused), width: 0.8, height: height(refused) }),
    ]));
  const last = slices.at(-2) || slices.at(-1);
  const values = last && { stored: n(last.stored), refused: n(last.refused), most: n(most) };
  const words = last ? t('{stored} stored and {refused} refused in the last ten minutes; at most {most} in ten minutes.', values) : t('No events yet.');
  return element('figure', { class: 'bars' }, picture, element('figcaption', { class: 'soft' }, words));
}

function speedParts({ queryP95Milliseconds, beaconP95Milliseconds, slowest }) {
  const rows = slowest.map(({ operation, milliseconds, time, status, requestId }) => [element('code', {}, operation), ms(milliseconds), moment(time), String(status), element('code', {}, requestId)]);
  return [
    element('h3', {}, t('Speed')),
    list([[t('95 of 100 queries took at most'), ms(queryP95Milliseconds)], [t('95 of 100 beacons took at most'), ms(beaconP95Milliseconds)]]),
    rows.length ? table(t('Slowest requests'), [t('Slowest requests'), t('Took'), t('At'), t('Status'), t('Request id in the logs')], rows, true) : '',
  ].filter(Boolean);
}

function startParts(starts) {
  const rows = starts.map(({ part, host, time, before, endTime }) => [
    moment(time), t('{part} on {host}', { part: PART_NAMES[part] || part, host }),
    !before ? t('the first one') : before === 'died' ? parts('the one before died, or was cut off, at {time}', { time: moment(endTime) }) : parts('the one before was stopped at {time}', { time: moment(endTime) }),
  ]);
  return [element('h3', {}, t('Starts')), table(t('Starts'), [t('Started'), t('Process'), t('After')], rows, true)];
}

function list(pairs) {
  return element('dl', {}, pairs.flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, value)]));
}
