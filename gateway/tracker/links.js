// Links: takes a visit along to the other domains of a site's owner, and takes over one that comes from there.
// Loaded only by pages whose config has `linkDomains`. What may be taken over, and why: docs/adr/0026.

const core = /** @type {any} */ (document.currentScript)._gt;

const LIFE_MS = 2 * 60 * 1000;
// Visit, browser, and when the link was used.
const NAME = /^([0-9a-f-]{36})\.([0-9a-f-]{36})\.(\d{13})$/;

/** Whether a host is one of the other domains, or below one. @param {string} host */
function isLinked(host) {
  return [].concat(core.config.linkDomains).some((domain) => ('.' + host).endsWith('.' + String(domain).toLowerCase()));
}

/** Whether the visitor's cookies are there too. @param {string} host */
function isOwn(host) {
  return host === location.hostname || (core.domain && ('.' + host).endsWith('.' + core.domain));
}

/** What names the visit to the page at this address; '' where it must not go along. @param {URL} address */
function nameFor({ protocol, hostname }) {
  if (!protocol.startsWith('http') || isOwn(hostname) || !isLinked(hostname)) return '';
  // Without consent there is no page.
  if (!core.page.isOpen) return '';
  core.enter();
  const name = [core.page.visitID, core.browser(), Date.now()].join('.');
  // Who does not want to be followed has no id of the browser.
  return NAME.test(name) ? name : '';
}

/**
 * Puts the visit into the address that an attribute holds, for as long as the browser needs to read it.
 * @param {Element} element
 * @param {string} attribute
 */
function lend(element, attribute) {
  const before = element.getAttribute(attribute) || '';
  const address = new URL(before, document.baseURI);
  const name = nameFor(address);
  if (!name) return;
  // What names a visit already, somebody else has written. The rest stays as it is spelled.
  const others = address.search.slice(1).split('&').filter((part) => part && !part.startsWith('_gt_link='));
  address.search = '?' + [...others, '_gt_link=' + name].join('&');
  element.setAttribute(attribute, address.href);
  setTimeout(() => element.setAttribute(attribute, before));
}

/** @param {MouseEvent} event */
function onClick(event) {
  // The right button opens a menu, from which the address can be copied.
  if (event.type === 'auxclick' && event.button !== 1) return;
  const link = event.composedPath().find((on) => on instanceof Element && on.matches('a[href],area[href]'));
  if (link) lend(/** @type {Element} */ (link), 'href');
}

/** @param {SubmitEvent} event */
function onSubmit({ target, submitter }) {
  const form = /** @type {Element} */ (target);
  // What the button says counts before what the form says.
  const own = (/** @type {string} */ name) => submitter && submitter.getAttribute('form' + name);
  const [element, action] = own('action') ? [/** @type {Element} */ (submitter), 'formaction'] : [form, 'action'];
  const method = (own('method') || form.getAttribute('method') || 'get').toLowerCase();
  if (method === 'post') lend(element, action);
  // The query of its address is dropped.
  if (method === 'get') lendField(form, new URL(element.getAttribute(action) || '', document.baseURI));
}

/** @param {Element} form @param {URL} address */
function lendField(form, address) {
  const value = nameFor(address);
  if (!value) return;
  const field = Object.assign(document.createElement('input'), { type: 'hidden', name: '_gt_link', value });
  form.appendChild(field);
  setTimeout(() => field.remove());
}

/** Takes over the visit that the address has named, when it is from whom it should be, fresh, and not taken yet. */
async function takeOver() {
  const [, visitID, browserID, time] = NAME.exec(core.brought) || [];
  // Whoever writes an address cannot choose from where it is followed.
  const isFromThere = document.referrer && isLinked(new URL(document.referrer).hostname);
  if (!visitID || !isFromThere || Math.abs(Date.now() - Number(time)) > LIFE_MS) {
    throw new Error('not taken over: ' + core.brought);
  }
  const answer = await fetch(core.endpoint() + '/link?name=' + core.brought, { method: 'POST' });
  // Where it has taken too long, the page has begun.
  if (!answer.ok || core.page.isOpen) return;
  core.remember('vid', visitID + '.' + Date.now());
  core.remember('gvid', browserID);
}

/** @template E @param {(event: E) => void} act @returns {(event: any) => void} never an error for the page */
function safely(act) {
  return (event) => {
    try {
      act(event);
    } catch (error) {
      core.debug(error);
    }
  };
}

addEventListener('click', safely(onClick), true);
addEventListener('auxclick', safely(onClick), true);
addEventListener('submit', safely(onSubmit), true);
if (core.brought && !core.page.isOpen) takeOver().catch(core.debug).then(core.done);
