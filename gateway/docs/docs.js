// The API documentation: shows /openapi.json and sends requests. It loads nothing from other hosts and parses no HTML.
'use strict';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const MOST_SHOWN = 50000; // characters of an endless stream
/** The groups of operations by tag, in their order on the page: title, and prefix of all paths. Only the first is open. */
const GROUPS = {
  Footfall: ['Visitors, contacts, interactions', '/api/v1'],
  Operations: ['Health and metrics', ''],
  Beacons: ['Beacons of pages', ''],
  Tracker: ['Requests of the script', ''],
  History: ['History API of Genesys Web Engagement', '/server/data'],
};
/** The last values of path parameters, for the next operation. */
const remembered = {};
let description;
let leaving = new AbortController();

/** An element with attributes and children. */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== ''));
  return made;
}

/** Every operation, in the order of the description, without the copies under the older prefix. */
function operations() {
  return Object.entries(description.paths)
    .filter(([path]) => !path.startsWith('/backend/'))
    .flatMap(([path, methods]) =>
      METHODS.filter((method) => methods[method]).map((method) => ({ path, method, ...methods[method] })));
}

/** A path that may wrap before each slash. */
function breakable(path) {
  return path.split(/(?=\/)/).flatMap((part) => [document.createElement('wbr'), part]);
}

/** Text without backticks. */
function plain(text) {
  return (text || '').replaceAll('`', '');
}

/** Text with what is between backticks as code. */
function coded(text) {
  return (text || '').split('`').map((piece, number) => (number % 2 ? element('code', {}, piece) : piece));
}

function showList() {
  const words = document.getElementById('find').value.toLowerCase().split(/\s+/).filter(Boolean);
  const current = location.hash.slice(1);
  const found = operations().filter(({ method, path, summary, operationId }) => {
    const text = `${method} ${path} ${summary} ${operationId}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const tags = [...new Set([...Object.keys(GROUPS), ...found.map(({ tags: [tag] }) => tag)])];
  document.getElementById('list').replaceChildren(...tags.flatMap((tag, number) => {
    const members = found.filter((operation) => operation.tags[0] === tag);
    const [title, prefix] = GROUPS[tag] || [tag, ''];
    const isOpen = number === 0 || words.length > 0 || members.some(({ operationId }) => operationId === current);
    return members.length === 0 ? [] : [element('details', { open: isOpen },
      element('summary', {}, title, ' ', element('code', {}, prefix)),
      ...members.map((operation) => element('a', {
        href: `#${operation.operationId}`,
        title: operation.summary,
        'aria-current': operation.operationId === current && 'page',
      }, methodLabel(operation), element('span', {}, ...breakable(operation.path.slice(prefix.length))))))];
  }));
}

function methodLabel({ method }) {
  return element('span', { class: `method ${method}` }, method.toUpperCase());
}

/** The limits of a value, which may be null. */
function limits(schema) {
  const names = ['format', 'minLength', 'maxLength', 'minimum', 'maximum', 'minItems', 'maxItems', 'pattern'];
  return [schema, ...(schema.anyOf || [])].flatMap((one) =>
    names.filter((name) => ![undefined, 'int64'].includes(one[name])).map((name) => `${name} ${one[name]}`)).join(', ');
}

/** A property: a comment with its meaning and limits, and its type. An optional one has a question mark. */
function propertySketch(key, schema, isRequired) {
  const bounds = limits(schema);
  return `  // ${plain(schema.description)}${bounds && ` (${bounds})`}\n  ${key}${isRequired ? '' : '?'}: ${sketch(schema, 1)}`;
}

/** The name of the schema that this one refers to. */
function nameOf(schema) {
  return schema.$ref.split('/').pop();
}

/** A text for a schema, with its properties. Inside it, other schemas have only their name. */
function sketch(schema, depth = 0) {
  if (schema.$ref && depth) return nameOf(schema);
  const found = schema.$ref ? description.components.schemas[nameOf(schema)] : schema;
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (found.anyOf) return found.anyOf.map((one) => sketch(one, depth)).join(depth ? ' | ' : '\nor ');
  if (found.type === 'array') return `[${sketch(found.items, depth + 1)}]`;
  if (found.properties) {
    const required = new Set(found.required);
    const lines = Object.entries(found.properties).map(([key, value]) => propertySketch(key, value, required.has(key)));
    return `{\n${lines.join('\n')}\n}`;
  }
  return [].concat(found.type || 'any').join(' | ');
}

/** The names of all schemas that a part of the description refers to, directly or by other schemas. */
function schemaNames(part, names = new Set()) {
  for (const [, name] of JSON.stringify(part).matchAll(/#\/components\/schemas\/(\w+)/g)) {
    if (names.has(name)) continue;
    names.add(name);
    schemaNames(description.components.schemas[name], names);
  }
  return names;
}

function showSchema(name) {
  return element('details', {},
    element('summary', {}, element('code', {}, name), ' ', ...coded(description.components.schemas[name].description)),
    element('pre', { tabindex: '0' }, sketch({ $ref: name })));
}

function field(parameter) {
  const schema = parameter.schema || {};
  const attributes = { name: `${parameter.in}:${parameter.name}`, required: parameter.required };
  const values = schema.enum || (schema.type === 'boolean' ? ['true', 'false'] : undefined);
  const input = values
    ? element('select', attributes, element('option', { value: '' }, ''), ...values.map((value) => element('option', { value }, value)))
    : element('input', {
      ...attributes,
      value: parameter.in === 'path' ? remembered[parameter.name] || parameter.example : undefined,
      placeholder: schema.default === undefined ? '' : String(schema.default),
    });
  return element('label', {}, parameter.name, input, element('small', {}, ...coded(parameter.description)));
}

/** The example of a body with ids and a time of its own where a sender makes them, so that it can be sent more than once. */
function freshExample(example) {
  const fresh = { ...example };
  if ('eventID' in fresh) fresh.eventID = newUuid();
  if ('visitID' in fresh) fresh.visitID = remembered.visitId;
  if ('timestamp' in fresh) fresh.timestamp = Date.now();
  return JSON.stringify(fresh, null, 2);
}

/** A random UUID, also over plain HTTP, where browsers have no `crypto.randomUUID`. */
function newUuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** Text in single quotes for a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The credentials of a curl command, without the secret: curl asks for the password. */
function curlCredentials() {
  const { user, secret } = document.getElementById('sign-in').elements;
  return secret.value && !user.value ? ' -H "Authorization: Bearer $TOKEN"' : ` -u ${quoted(user.value || 'USER')}`;
}

/** A command that sends a request. */
function curl(operation, url, headers, body) {
  const method = operation.method === 'get' ? '' : ` -X ${operation.method.toUpperCase()}`;
  const own = Object.entries(headers).filter(([name]) => name !== 'Authorization');
  return `curl${method}${operation.security.length ? curlCredentials() : ''} ${quoted(location.origin + url)}`
    + own.map(([name, value]) => ` \\\n  -H ${quoted(`${name}: ${value}`)}`).join('')
    + (body === null ? '' : ` \\\n  -d ${quoted(body)}`);
}

/** A command with a button that copies it, or selects it where the browser lets no page copy. */
function command(text) {
  const shown = element('pre', { tabindex: '0' }, text);
  const button = element('button', { type: 'button', class: 'copy', onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(shown);
      button.textContent = 'Selected';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  } }, 'Copy');
  return element('div', { class: 'command' }, shown, button);
}

/** What the page shows before an operation is chosen. */
function showStart() {
  const visit = `${location.origin}/api/v1/visits/${remembered.visitId}`;
  const signIn = JSON.stringify({
    eventName: 'SignIn', eventID: newUuid(), visitID: remembered.visitId, timestamp: Date.now(),
    data: { userID: 'dana@example.com', firstName: 'Dana', lastName: 'Oak' },
  });
  const [about, ...rules] = description.info.description.split('\n\n');
  document.title = 'Footfall API';
  document.getElementById('main').replaceChildren(
    element('h2', { tabindex: '-1', class: 'start' }, 'Your first answer'),
    element('p', {}, 'Three commands. The first is what a page of a website sends; the others are what a contact center asks.'),
    element('h3', {}, '1. A visitor signs in on a page'),
    command(`curl -i -H 'Content-Type: application/json' ${location.origin}/beacon \\\n  -d ${quoted(signIn)}`),
    element('h3', {}, '2. Who is it?'),
    command(`curl${curlCredentials()} ${visit}/visitor`),
    element('h3', {}, '3. Why?'),
    command(`curl${curlCredentials()} ${visit}/explain`),
    element('p', { class: 'meta' }, ...coded('`make run` prints the user and password and keeps them in `.data/credentials`. Or '
      + 'sign in above, and send requests from this page: '), element('a', { href: '#getVisitor' }, 'who is it'), ', ',
      element('a', { href: '#explainVisit' }, 'why'), ', ', element('a', { href: '#listVisitors' }, 'who is on the site now'), '.'),
    element('h3', {}, 'Rules of all operations'),
    element('p', {}, ...coded(about)), element('ul', {}, ...rules.map((text) => element('li', {}, ...coded(text)))));
}

function showChoice() {
  const operation = operations().find((one) => one.operationId === location.hash.slice(1));
  showList();
  leaving.abort(); // ends a stream of the previous operation
  leaving = new AbortController();
  if (operation) showOperation(operation);
  else showStart();
}

function showOperation(operation) {
  const content = operation.requestBody && operation.requestBody.content['application/json'];
  const answer = element('div', { role: 'status' });
  const form = element('form', { onsubmit: (event) => send(event, operation, answer) },
    element('div', { class: 'fields' }, ...(operation.parameters || []).map(field)),
    content ? element('label', {}, 'Body', element('textarea', { name: 'body', spellcheck: 'false', rows: '12' },
      freshExample(content.example))) : '',
    element('button', { class: 'send' }, 'Send'));
  document.title = `${operation.summary} · Footfall API`;
  document.getElementById('main').replaceChildren(
    element('h2', { tabindex: '-1' }, methodLabel(operation), ` ${operation.path}`),
    element('p', {}, `${operation.summary}.`),
    operation.description ? element('p', { class: 'meta' }, ...coded(operation.description)) : '',
    element('p', { class: 'meta' }, operation['x-scope'] ? `Needs the scope ${operation['x-scope']}.` : operation.security.length ? 'Needs credentials of any scope.' : 'Needs no authentication.'),
    form, answer,
    content ? element('h3', {}, 'Body') : '',
    content ? element('pre', { tabindex: '0' }, sketch(content.schema)) : '',
    element('h3', {}, 'Responses'),
    element('table', {}, element('tbody', {}, ...Object.entries(operation.responses).map(answerRow))),
    element('h3', {}, 'Objects'),
    ...[...schemaNames([operation.requestBody || {}, operation.responses])].map(showSchema));
}

/** Bring the choice of the reader into view: the list is above it on a narrow screen, and may be scrolled on a wide one. */
function choose() {
  showChoice();
  const heading = document.querySelector('main h2');
  heading.focus({ preventScroll: true });
  heading.scrollIntoView({ block: 'nearest' });
}

function answerRow([status, described]) {
  const response = described.$ref ? description.components.responses[described.$ref.split('/').pop()] : described;
  const schemas = Object.values(response.content || {}).map((one) => one.schema).filter(Boolean);
  const isError = status >= '400';
  return element('tr', {}, element('td', {}, status),
    element('td', {}, ...coded(response.description), schemas.length && !isError ? element('pre', { tabindex: '0' }, sketch(schemas[0])) : ''));
}

function authorization() {
  const { user, secret } = document.getElementById('sign-in').elements;
  if (!secret.value) return {};
  if (!user.value) return { Authorization: `Bearer ${secret.value}` };
  const bytes = new TextEncoder().encode(`${user.value}:${secret.value}`);
  return { Authorization: `Basic ${btoa(String.fromCharCode(...bytes))}` };
}

/** The text of a response as it arrives. */
async function* parts(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

async function send(event, operation, answer) {
  event.preventDefault();
  const values = new FormData(event.target);
  const query = new URLSearchParams();
  const headers = authorization();
  let path = operation.path;
  for (const [name, value] of values) {
    if (name.startsWith('path:')) {
      path = path.replace(`{${name.slice(5)}}`, encodeURIComponent(value));
      remembered[name.slice(5)] = value;
    }
    if (name.startsWith('query:') && value) query.set(name.slice(6), value);
    if (name.startsWith('header:') && value) headers[name.slice(7)] = value;
  }
  const url = query.size ? `${path}?${query}` : path;
  const body = values.get('body');
  if (body !== null) headers['Content-Type'] = 'application/json';
  const sent = curl(operation, url, headers, body);
  const button = event.target.querySelector('.send');
  button.disabled = true;
  try {
    // Without the browser's own credentials: on a 401 it would open its sign-in window.
    const options = { method: operation.method.toUpperCase(), headers, body, credentials: 'omit', signal: leaving.signal };
    const response = await fetch(url, options);
    let text = '';
    if ((response.headers.get('Content-Type') || '').startsWith('text/event-stream')) {
      for await (const part of parts(response)) show(answer, sent, response, text = (text + part).slice(-MOST_SHOWN));
    } else {
      text = await response.text();
    }
    show(answer, sent, response, text);
    answer.scrollIntoView({ block: 'nearest' });
  } catch (error) {
    answer.replaceChildren(element('p', { class: 'status bad' }, `The gateway does not answer: ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

function show(answer, sent, response, text) {
  let shown = text;
  let isNobody = false;
  try {
    const found = JSON.parse(text);
    shown = JSON.stringify(found, null, 2);
    isNobody = found.identityErased === false;
  } catch { /* not JSON */ }
  const next = response.headers.get('Paging-Next');
  answer.replaceChildren(
    element('h3', { class: response.ok ? 'status' : 'status bad' }, `${response.status} ${response.statusText}`),
    isNobody ? element('p', { class: 'status bad' }, 'No identity of this name was stored, or it has been erased before. Write the name as it is: this page encodes it.') : '',
    next ? element('p', { class: 'meta' }, `Paging-Next: ${next}`) : '',
    shown ? element('pre', { tabindex: '0' }, shown) : '',
    element('h3', {}, 'The same as a command'),
    command(sent));
}

/** Ask for one visitor, to say whether the credentials are right. */
async function signIn(event) {
  event.preventDefault();
  const said = document.getElementById('signed-in');
  const say = (text, isGood) => {
    said.textContent = text;
    said.className = isGood ? 'status' : 'status bad';
  };
  try {
    const { status } = await fetch('/api/v1/visitors?page_size=1', { headers: authorization(), credentials: 'omit' });
    if (status === 200) say('Signed in.', true);
    else if (status === 401) say('The user, password or token is wrong.');
    else if (status === 403) say('The token is right. It does not have the scope read.', true);
    else if (status === 429) say('Too many sign-ins have failed. Wait a minute.');
    else say(`The gateway answers ${status}. Look at /readyz.`);
  } catch (error) {
    say(`The gateway does not answer: ${error.message}`);
  }
  if (!location.hash.slice(1)) showStart(); // its commands have the user
}

async function start() {
  description = await (await fetch('/openapi.json')).json();
  remembered.visitId = newUuid();
  document.getElementById('find').addEventListener('input', showList);
  document.getElementById('sign-in').addEventListener('submit', signIn);
  document.getElementById('to-list').addEventListener('click', () => document.getElementById('nav').scrollIntoView());
  addEventListener('hashchange', choose);
  showChoice();
}

start();
