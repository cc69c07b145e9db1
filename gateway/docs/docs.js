// The API documentation: shows /openapi.json and sends requests. It loads nothing from other hosts and parses no HTML.
'use strict';

const METHODS = ['get', 'post', 'put', 'delete'];
const MOST_SHOWN = 50000; // characters of an endless stream
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

function showList() {
  const words = document.getElementById('find').value.toLowerCase().split(/\s+/).filter(Boolean);
  const tags = new Map();
  for (const operation of operations()) {
    const text = `${operation.method} ${operation.path} ${operation.summary} ${operation.operationId}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) continue;
    if (!tags.has(operation.tags[0])) tags.set(operation.tags[0], []);
    tags.get(operation.tags[0]).push(operation);
  }
  document.getElementById('list').replaceChildren(...[...tags].flatMap(([tag, members]) => [
    element('h2', {}, tag),
    ...members.map((operation) => element('button', {
      type: 'button',
      title: operation.summary,
      'aria-current': String(location.hash.slice(1) === operation.operationId),
      onclick: () => { location.hash = operation.operationId; },
    }, element('span', { class: `method ${operation.method}` }, operation.method.toUpperCase()), element('span', {}, ...breakable(operation.path)))),
  ]));
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
    element('summary', {}, element('code', {}, name), ` ${plain(description.components.schemas[name].description)}`),
    element('pre', {}, sketch({ $ref: name })));
}

function field(parameter) {
  const schema = parameter.schema || {};
  const attributes = { name: `${parameter.in}:${parameter.name}`, required: parameter.required };
  const values = schema.enum || (schema.type === 'boolean' ? ['true', 'false'] : undefined);
  const input = values
    ? element('select', attributes, element('option', { value: '' }, ''), ...values.map((value) => element('option', { value }, value)))
    : element('input', { ...attributes, placeholder: schema.default === undefined ? '' : String(schema.default) });
  return element('label', {}, parameter.name, input, element('small', {}, plain(parameter.description)));
}

function showOperation() {
  const operation = operations().find((one) => one.operationId === location.hash.slice(1));
  showList();
  leaving.abort(); // ends a stream of the previous operation
  leaving = new AbortController();
  if (!operation) return;
  const content = operation.requestBody && operation.requestBody.content['application/json'];
  const answer = element('div', {});
  const form = element('form', { onsubmit: (event) => send(event, operation, answer) },
    element('div', { class: 'fields' }, ...(operation.parameters || []).map(field)),
    content ? element('label', {}, 'Body', element('textarea', { name: 'body', spellcheck: 'false' }, '{}')) : '',
    element('button', { class: 'send' }, 'Send'));
  document.getElementById('main').replaceChildren(
    element('h2', {}, element('span', { class: `method ${operation.method}` }, operation.method.toUpperCase()), ` ${operation.path}`),
    element('p', {}, `${operation.summary}.`),
    operation.description ? element('p', { class: 'meta' }, plain(operation.description)) : '',
    element('p', { class: 'meta' }, operation['x-scope'] ? `Needs the scope ${operation['x-scope']}.` : 'Needs no authentication.'),
    form, answer,
    content ? element('h3', {}, 'Body') : '',
    content ? element('pre', {}, sketch(content.schema)) : '',
    element('h3', {}, 'Responses'),
    element('table', {}, element('tbody', {}, ...Object.entries(operation.responses).map(answerRow))),
    element('h3', {}, 'Objects'),
    ...[...schemaNames([operation.requestBody || {}, operation.responses])].map(showSchema));
}

function answerRow([status, described]) {
  const response = described.$ref ? description.components.responses[described.$ref.split('/').pop()] : described;
  const schemas = Object.values(response.content || {}).map((one) => one.schema).filter(Boolean);
  const isError = status >= '400';
  return element('tr', {}, element('td', {}, status),
    element('td', {}, plain(response.description), schemas.length && !isError ? element('pre', {}, sketch(schemas[0])) : ''));
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
    if (name.startsWith('path:')) path = path.replace(`{${name.slice(5)}}`, encodeURIComponent(value));
    if (name.startsWith('query:') && value) query.set(name.slice(6), value);
    if (name.startsWith('header:') && value) headers[name.slice(7)] = value;
  }
  const url = query.size ? `${path}?${query}` : path;
  const body = values.get('body');
  const button = event.target.querySelector('.send');
  button.disabled = true;
  try {
    if (body !== null) headers['Content-Type'] = 'application/json';
    // Without the browser's own credentials: on a 401 it would open its sign-in window.
    const options = { method: operation.method.toUpperCase(), headers, body, credentials: 'omit', signal: leaving.signal };
    const response = await fetch(url, options);
    let text = '';
    if ((response.headers.get('Content-Type') || '').startsWith('text/event-stream')) {
      for await (const part of parts(response)) show(answer, operation, url, response, text = (text + part).slice(-MOST_SHOWN));
    } else {
      text = await response.text();
    }
    show(answer, operation, url, response, text);
  } catch (error) {
    answer.replaceChildren(element('p', { class: 'status bad' }, `The gateway does not answer: ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

function show(answer, operation, url, response, text) {
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
  const next = response.headers.get('Paging-Next');
  answer.replaceChildren(
    element('h3', {}, 'Response'),
    element('p', { class: 'meta' }, `${operation.method.toUpperCase()} ${url}`),
    element('p', { class: response.ok ? 'status' : 'status bad' }, `${response.status} ${response.statusText}`),
    next ? element('p', { class: 'meta' }, `Paging-Next: ${next}`) : '',
    shown ? element('pre', {}, shown) : '');
}

async function start() {
  description = await (await fetch('/openapi.json')).json();
  document.getElementById('about').replaceChildren(
    ...plain(description.info.description).split('\n\n').map((text) => element('p', {}, text)));
  document.getElementById('find').addEventListener('input', showList);
  addEventListener('hashchange', showOperation);
  showOperation();
}

start();
