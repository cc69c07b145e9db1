// Links: carries a visit to the other domains of a site's owner, and continues a visit that comes from there.
// Loaded only by pages whose config has `linkDomains`. The rules: docs/adr/0026.

const core = /** @type {any} */ (document.currentScript)._gt;

const LIFE_MS = 2 * 60 * 1000;
// Visit, browser, and when the link was used.
const NAME = /^([0-9a-f-]{36})\.([0-9a-f-]{36})\.(\d{13})$/;

/** Whether a host is in one of the other domains. @param {string} host */
function isLinked(host) {
  return [].concat(core.config.linkDomains).some((domain) => ('.' + host).endsWith('.' + String(domain).toLowerCase()));
}

/** Whether a host has the visitor's cookies. @param {string} host */
function isOwn(host) {
  return host === location.hostname || (core.domain && ('.' + host).endsWith('.' + core.domain));
}

/** The name of the visit for a page at this address; '' where the visit must not be carried. @param {URL} address */
function nameFor({ protocol, hostname }) {
  if (!protocol.startsWith('http') || isOwn(hostname) || !isLinked(hostname)) return '';
  // Without consent no page is open.
  if (!core.page.isOpen) return '';
  core.enter();
  const name = [core.page.visitID, core.browser(), Date.now()].join('.');
  // A visitor who asks not to be tracked has no id of the browser.
  return NAME.test(name) ? name : '';
}

/**
 * Adds the visit to the address in an attribute, for as long as the browser needs to read it.
 * @param {Element} element
 * @param {string} attribute
 */
function lend(element, attribute) {
  const before = element.getAttribute(attribute) || '';
  const address = new URL(before, document.baseURI);
  const name = nameFor(address);
  if (!name) return;
  // An existing `_gt_link` is removed: this script has not written it. The rest keeps its spelling.
  const others = address.search.slice(1).split('&').filter((part) => part && !part.startsWith('_gt_link='));
  address.search = '?' + [...others, '_gt_link=' + name].join('&');
  element.setAttribute(attribute, address.href);
  setTimeout(() => element.setAttribute(attribute, before));
}

/** @param {MouseEvent} event */
function onClick(event) {
  // The right button opens a menu that can copy the address.
  if (event.type === 'auxclick' && event.button !== 1) return;
  const link = event.composedPath().find((on) => on instanceof Element && on.matches('a[href],area[href]'));
  if (link) lend(/** @type {Element} */ (link), 'href');
}

/** @param {SubmitEvent} event */
function onSubmit({ target, submitter }) {
  const form = /** @type {Element} */ (target);
  // The attributes of the button have precedence over those of the form.
  const own = (/** @type {string} */ name) => submitter && submitter.getAttribute('form' + name);
  const [element, action] = own('action') ? [/** @type {Element} */ (submitter), 'formaction'] : [form, 'action'];
  const method = (own('method') || form.getAttribute('method') || 'get').toLowerCase();
  if (method === 'post') lend(element, action);
  // A GET form drops the query of its address.
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

/** Continues the visit that the address names, if it comes from a linked domain, is fresh, and was not used before. */
async function takeOver() {
  const [, visitID, browserID, time] = NAME.exec(core.brought) || [];
  // An attacker can write an address, but cannot choose the page on which it is followed.
  const isFromThere = document.referrer && isLinked(new URL(document.referrer).hostname);
  if (!visitID || !isFromThere || Math.abs(Date.now() - Number(time)) > LIFE_MS) {
    throw new Error('this link does not continue a visit: ' + core.brought);
  }
  const answer = await fetch(core.endpoint() + '/link?name=' + core.brought, { method: 'POST' });
  // If this has taken too long, the page has begun a visit of its own.
  if (!answer.ok || core.page.isOpen) return;
  core.remember('vid', visitID + '.' + Date.now());
  core.remember('gvid', browserID);
}

/** @template E @param {(event: E) => void} act @returns {(event: any) => void} without errors for the page */
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
