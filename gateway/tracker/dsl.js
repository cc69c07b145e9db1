// DSL: raises the business events that a domain-model.xml describes. Loaded only by pages whose config names one.
// Does not use Array.from and reduce, which Prototype.js replaces.

const script = /** @type {HTMLScriptElement} */ (document.currentScript);
const { dsl = '', global = '_gt', debug, jquery } = script.dataset;
const globals = /** @type {any} */ (window);

/** @param {...unknown} what */
function note(...what) {
  if (debug !== undefined) console.log('[_gt dsl]', ...what);
}

/** The gateway's jQuery, once it is loaded. @type {any} */
let ours;
/** @type {Promise<void>|undefined} */
let loading;

/** The jQuery of rules: the page's, once it is loaded, or else ours. Always ours for scripts such as `GTCJ.min.js`. */
function jQueryOfRules() {
  const { jQuery } = globals;
  return jquery === undefined && jQuery && jQuery.fn && jQuery.fn.jquery ? jQuery : ours;
}

/** Loads our jQuery if rules have none. If the page's policy refuses it, only the rules that need it fail. */
function ensureJQuery() {
  if (!jQueryOfRules() && !loading) loading = new Promise((resolve) => {
    const element = /** @type {any} */ (document.createElement('script'));
    element.src = new URL('tracker-jquery.js?v=JQUERY_VERSION', script.src).href;
    element.nonce = script.nonce;
    element.onload = element.onerror = () => {
      ours = element.jQuery;
      if (!ours) console.warn('_gt: jQuery could not be loaded; rules that need it do nothing');
      element.remove();
      resolve();
    };
    document.head.appendChild(element);
  });
  return loading;
}

/** Whether a selector is CSS. @param {string} selector */
function isCSS(selector) {
  try {
    document.createDocumentFragment().querySelector(selector);
    return true;
  } catch (error) {
    return false;
  }
}

/** Whether a rule needs jQuery. @param {Element} rule */
function needsJQuery(rule) {
  return [rule, ...rule.querySelectorAll('*')].some((element) =>
    !isCSS(attribute(element, 'element') || '*') ||
    EXPRESSIONS.some((name) => evaluate && /\$|jQuery/.test(attribute(element, name))));
}

/**
 * The element of a selector that an event belongs to: its target or an ancestor, including elements added later.
 * An empty selector has no elements: only events of the page itself belong to it.
 * @param {Event} event
 * @param {string} selector
 * @returns {EventTarget|undefined}
 */
function subjectOf({ target, bubbles }, selector) {
  if (!(target instanceof Element)) return selector ? undefined : globals;
  if (!selector) return undefined;
  // A selector such as `:first` depends on the whole list, not on one element.
  const list = isCSS(selector) ? undefined : jQueryOfRules()(selector).get();
  // An event that does not bubble (focus, mouseenter) belongs to its target only.
  /** @type {Element|null} */
  let element = target;
  while (element && !(list ? list.includes(element) : element.matches(selector))) {
    element = bubbles ? element.parentElement : null;
  }
  return element || undefined;
}

/**
 * Whether a rule's `url` matches this page. No `url` matches every page; `*` matches any text.
 * Case and a slash at the end make no difference, as in the samples of Genesys Web Engagement (GWE).
 * @param {string} url
 */
function isHere(url) {
  const pattern = url.replace(/\/$/, '').replace(/[.+?^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*');
  return !url || new RegExp('^' + pattern + '/?$', 'i').test(location.href.split('#')[0]);
}

const EXPRESSIONS = ['condition', 'postcondition', 'value'];

/** @type {Function|undefined} */
let evaluate;
try {
  evaluate = new Function('$', 'jQuery', 'event', 'return eval(arguments[3])');
} catch (forbidden) {
  // A Content-Security-Policy without 'unsafe-eval': everything but expressions works.
}

/**
 * The value of an expression; undefined when it fails or cannot be evaluated.
 * @param {string} code
 * @param {Event} [event]
 * @param {EventTarget} [subject] what `this` is
 */
function valueOf(code, event, subject) {
  const jQuery = jQueryOfRules();
  try {
    const value = evaluate && evaluate.call(subject, jQuery, jQuery, event, code);
    return value && value.jquery ? value.text() : value;
  } catch (error) {
    note(code, error);
    return undefined;
  }
}

/** @param {Element} rule @param {string} name */
function attribute(rule, name) {
  return (rule.getAttribute(name) || '').trim();
}

/** The `<val>` children of a rule as data. @param {Element} rule @param {Event} [event] @param {EventTarget} [subject] */
function valuesOf(rule, event, subject) {
  /** @type {Object<string, unknown>} */
  const data = {};
  [...rule.children].forEach((child) => {
    if (child.tagName === 'val') data[attribute(child, 'name')] = valueOf(attribute(child, 'value'), event, subject);
  });
  return data;
}

/**
 * Raises an `<event>` each time all its triggers have happened, each `count` times.
 * @param {Element} rule
 */
function watch(rule) {
  const condition = attribute(rule, 'condition');
  if (condition && !valueOf(condition)) return;
  const postcondition = attribute(rule, 'postcondition');
  const triggers = [...rule.getElementsByTagName('trigger')].map((element) => ({
    element,
    isTimer: attribute(element, 'action').startsWith('timer:'),
    missing: countOf(element),
    data: {},
  }));
  triggers.forEach((trigger) =>
    listen(trigger.element, (event, subject) => {
      trigger.missing -= trigger.isTimer ? trigger.missing : 1;
      trigger.data = valuesOf(trigger.element, event, subject);
      if (triggers.some(({ missing }) => missing > 0)) return;
      // A timer fires once a page; the other triggers must happen again.
      triggers.forEach((each) => (each.missing = each.isTimer ? 0 : countOf(each.element)));
      if (postcondition && !valueOf(postcondition, event, subject)) return;
      const data = Object.assign({}, ...triggers.map((each) => each.data), valuesOf(rule, event, subject));
      globals[global].push(['event', attribute(rule, 'name'), { data }]);
    }));
}

/** How often a trigger must happen. @param {Element} trigger */
function countOf(trigger) {
  return Number(attribute(trigger, 'count')) || 1;
}

/**
 * Calls back whenever the action of a `<trigger>` happens on a page of its `url`.
 * @param {Element} trigger
 * @param {(event?: Event, subject?: EventTarget) => void} happened
 */
function listen(trigger, happened) {
  const [selector, action, url] = ['element', 'action', 'url'].map((name) => attribute(trigger, name));
  /** @type {typeof happened} */
  const happenedHere = safely((event, subject) => isHere(url) && happened(event, subject));
  const [, delay] = action.match(/^timer:(\d+)$/) || [];
  const isPast = action === 'ready' || (action === 'load' && !selector && document.readyState === 'complete');
  if (delay) startTimer(Number(delay) * countOf(trigger), attribute(trigger, 'type') === 'nomove', happenedHere);
  else if (isPast) happenedHere();
  else {
    const name = action === 'enterkey' ? 'keydown' : action === 'unload' ? 'pagehide' : action;
    const onEvent = safely((/** @type {any} */ event) => {
      const subject = subjectOf(event, selector);
      if (subject && (action !== 'enterkey' || event.key === 'Enter')) happenedHere(event, subject);
    });
    // Capturing, because pages may stop the propagation of events.
    (selector ? document : window).addEventListener(name, onEvent, true);
  }
}

/**
 * Calls back once, `delay` after the page is loaded or the mouse has last moved.
 * @param {number} delay milliseconds
 * @param {boolean} isReset by a moving mouse
 * @param {() => void} ranOut
 */
function startTimer(delay, isReset, ranOut) {
  /** @type {number|undefined} */
  let timer;
  const restart = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      removeEventListener('mousemove', restart);
      ranOut();
    }, delay);
  };
  if (document.readyState === 'complete') restart();
  else addEventListener('load', restart);
  if (isReset) addEventListener('mousemove', restart);
}

/**
 * The function, without errors for the page.
 * @template {unknown[]} A
 * @param {(...args: A) => unknown} act
 * @returns {(...args: A) => void}
 */
function safely(act) {
  return (...args) => {
    try {
      act(...args);
    } catch (error) {
      note(error);
    }
  };
}

/** @param {string} xml */
async function install(xml) {
  const file = new DOMParser().parseFromString(xml, 'text/xml');
  if (file.querySelector('parsererror')) throw new Error('not a DSL file: ' + dsl);
  const rules = [...file.getElementsByTagName('event')];
  const expressions = EXPRESSIONS
    .flatMap((name) => [...file.querySelectorAll('[' + name + ']')].map((element) => attribute(element, name)))
    .filter(Boolean);
  if (!evaluate && expressions.length) {
    console.warn("_gt: the page's Content-Security-Policy forbids expressions; skipped:", expressions);
  }
  if (rules.some(needsJQuery)) await ensureJQuery();
  rules.forEach(safely(watch));
}

async function load() {
  if (jquery !== undefined) ensureJQuery();
  const response = await fetch(dsl);
  const xml = response.ok ? await response.text() : '';
  // Conditions may use the whole page.
  const begin = () => install(xml).catch(note);
  if (document.readyState === 'loading') addEventListener('DOMContentLoaded', begin);
  else begin();
}

load().catch(note);
