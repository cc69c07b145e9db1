// DSL: raises the business events that a domain-model.xml describes. Loaded only by pages whose config names one.
// Without Array.from and reduce, which are other functions on pages with Prototype.js.

const { dsl = '', global = '_gt', debug } = /** @type {HTMLScriptElement} */ (document.currentScript).dataset;
const globals = /** @type {any} */ (window);

/** @param {...unknown} what */
function note(...what) {
  if (debug !== undefined) console.log('[_gt dsl]', ...what);
}

/** What `$` is in expressions on pages without jQuery: as much of it as the samples of the original use. */
class Query {
  /** @param {any} what a selector, an element or a list of elements */
  constructor(what) {
    const found = typeof what === 'string' ? document.querySelectorAll(native(what)) : what.nodeType ? [what] : what;
    /** @type {any[]} */
    this.all = [...found];
    this.length = this.all.length;
    Object.assign(this, this.all);
  }

  /** @param {(element: Element) => Iterable<Element|null>} step */
  map(step) {
    const found = this.all.flatMap((element) => [...step(element)]);
    return new Query(new Set(found.filter(Boolean)));
  }

  /** @param {string} selector */
  find(selector) {
    return this.map((element) => element.querySelectorAll(native(selector)));
  }

  /** @param {string} selector */
  closest(selector) {
    return this.map((element) => [element.closest(native(selector))]);
  }

  /** @param {string} [selector] */
  parents(selector = '*') {
    return this.map((element) => {
      const above = [];
      for (let e = element.parentElement; e; e = e.parentElement) if (e.matches(native(selector))) above.push(e);
      return above;
    });
  }

  text() {
    return this.all.map((element) => element.textContent).join('');
  }

  val() {
    return this.length ? this.all[0].value : undefined;
  }

  html() {
    return this.length ? this.all[0].innerHTML : undefined;
  }

  /** @param {string} name */
  attr(name) {
    return this.length && this.all[0].hasAttribute(name) ? this.all[0].getAttribute(name) : undefined;
  }
}

/** A selector of jQuery as browsers know it: jQuery's input types become attributes. @param {string} selector */
function native(selector) {
  return selector
    .replace(/:text\b/g, ':is([type=text],input:not([type]))')
    .replace(/:(checkbox|file|image|password|radio|reset|submit)\b/g, '[type=$1]');
}

/**
 * Whether an event is about an element that the selector means; elements added later count as well.
 * @param {Event} event
 * @param {string} selector
 */
function isAbout({ target, bubbles }, selector) {
  if (!selector) return true;
  if (!(target instanceof Element)) return false;
  const { jQuery } = globals;
  // What does not bubble (focus, mouseenter) happens to each element by itself.
  if (jQuery) return bubbles ? jQuery(target).closest(selector).length > 0 : jQuery(target).is(selector);
  return bubbles ? !!target.closest(native(selector)) : target.matches(native(selector));
}

/**
 * Whether a rule's `url` means this page: any page without one, else exactly this, where `*` is anything.
 * Case and a slash at the end make no difference, as in the samples of the original.
 * @param {string} url
 */
function isHere(url) {
  const pattern = url.replace(/\/$/, '').replace(/[.+?^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*');
  return !url || new RegExp('^' + pattern + '/?$', 'i').test(location.href.split('#')[0]);
}

/** @type {((query: any, jQuery: any, event: Event|undefined, code: string) => any)|undefined} */
let evaluate;
try {
  evaluate = /** @type {any} */ (new Function('$', 'jQuery', 'event', 'return eval(arguments[3])'));
} catch (forbidden) {
  // A Content-Security-Policy without 'unsafe-eval': all but expressions works.
}

/**
 * The value of an expression; undefined when it fails, or must not be evaluated.
 * @param {string} code
 * @param {Event} [event]
 */
function valueOf(code, event) {
  const query = globals.jQuery || ((/** @type {any} */ what) => new Query(what));
  try {
    const value = evaluate && evaluate(query, query, event, code);
    return value && typeof value.text === 'function' ? value.text() : value;
  } catch (error) {
    note(code, error);
    return undefined;
  }
}

/** @param {Element} rule @param {string} name */
function attribute(rule, name) {
  return (rule.getAttribute(name) || '').trim();
}

/** The `<val>` children of a rule as data. @param {Element} rule @param {Event} [event] */
function valuesOf(rule, event) {
  /** @type {Object<string, unknown>} */
  const data = {};
  [...rule.children].forEach((child) => {
    if (child.tagName === 'val') data[attribute(child, 'name')] = valueOf(attribute(child, 'value'), event);
  });
  return data;
}

/**
 * Raises an `<event>` each time all its triggers have happened, each as often as it should.
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
    listen(trigger.element, (event) => {
      trigger.missing -= trigger.isTimer ? trigger.missing : 1;
      trigger.data = valuesOf(trigger.element, event);
      if (triggers.some(({ missing }) => missing > 0)) return;
      // Time runs out once a page; everything else has to happen anew.
      triggers.forEach((each) => (each.missing = each.isTimer ? 0 : countOf(each.element)));
      if (postcondition && !valueOf(postcondition, event)) return;
      const data = Object.assign({}, ...triggers.map((each) => each.data), valuesOf(rule, event));
      globals[global].push(['event', attribute(rule, 'name'), { data }]);
    }));
}

/** How often a trigger has to happen. @param {Element} trigger */
function countOf(trigger) {
  return Number(attribute(trigger, 'count')) || 1;
}

/**
 * Calls back whenever what a `<trigger>` waits for happens on the page it is for.
 * @param {Element} trigger
 * @param {(event?: Event) => void} happened
 */
function listen(trigger, happened) {
  const [selector, action, url] = ['element', 'action', 'url'].map((name) => attribute(trigger, name));
  const happenedHere = safely((/** @type {Event|undefined} */ event) => isHere(url) && happened(event));
  const [, delay] = action.match(/^timer:(\d+)$/) || [];
  const isPast = action === 'ready' || (action === 'load' && !selector && document.readyState === 'complete');
  if (delay) startTimer(Number(delay) * countOf(trigger), attribute(trigger, 'type') === 'nomove', happenedHere);
  else if (isPast) happenedHere(undefined);
  else {
    const name = action === 'enterkey' ? 'keydown' : action === 'unload' ? 'pagehide' : action;
    const onEvent = safely((/** @type {any} */ event) => {
      if ((action !== 'enterkey' || event.key === 'Enter') && isAbout(event, selector)) happenedHere(event);
    });
    // Capturing, since pages stop events on their way up.
    (selector ? document : window).addEventListener(name, onEvent, true);
  }
}

/**
 * Calls back once, so long after the page is loaded, or after the mouse has last moved.
 * @param {number} delay milliseconds
 * @param {boolean} isReset by a moving mouse
 * @param {(event: undefined) => void} ranOut
 */
function startTimer(delay, isReset, ranOut) {
  /** @type {number|undefined} */
  let timer;
  const restart = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      removeEventListener('mousemove', restart);
      ranOut(undefined);
    }, delay);
  };
  if (document.readyState === 'complete') restart();
  else addEventListener('load', restart);
  if (isReset) addEventListener('mousemove', restart);
}

/**
 * The function, but never an error for the page it runs in.
 * @template A
 * @param {(argument: A) => unknown} act
 * @returns {(argument: A) => void}
 */
function safely(act) {
  return (argument) => {
    try {
      act(argument);
    } catch (error) {
      note(error);
    }
  };
}

/** @param {string} xml */
function install(xml) {
  const rules = new DOMParser().parseFromString(xml, 'text/xml');
  if (rules.querySelector('parsererror')) throw new Error('no DSL at ' + dsl);
  const expressions = ['condition', 'postcondition', 'value']
    .flatMap((name) => [...rules.querySelectorAll('[' + name + ']')].map((element) => attribute(element, name)))
    .filter(Boolean);
  if (!evaluate && expressions.length) {
    console.warn("_gt: the page's Content-Security-Policy forbids expressions; skipped:", expressions);
  }
  [...rules.getElementsByTagName('event')].forEach(safely(watch));
}

async function load() {
  const response = await fetch(dsl);
  const xml = response.ok ? await response.text() : '';
  // Conditions are about the whole page.
  const begin = () => safely(install)(xml);
  if (document.readyState === 'loading') addEventListener('DOMContentLoaded', begin);
  else begin();
}

load().catch(note);
