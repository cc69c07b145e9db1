// Commands: `_gt.push([name, ...])`, in every spelling that pages use.

/** The visitor's consent, as the page reports it. @type {boolean|undefined} */
let consent;
let isConfigured = false;
let isStarted = false;

/** Calls before the start, in order. @type {unknown[][]} */
const held = [];

/**
 * Raises an event of the current page. Its data are copied now.
 * @param {string} name
 * @param {object} data
 */
function raise(name, data) {
  ensurePage();
  write(name, data);
  // The page's own `pagehide` listener may run after ours.
  if (page.isGone) flushNow();
}

/** @type {Object<string, (...args: any[]) => void>} */
const commands = {
  /** @param {Config} options */
  config(options) {
    Object.assign(config, options);
    isConfigured = true;
    if (isStarted) loadRules();
  },

  /** @param {boolean} isGranted */
  consent(isGranted) {
    consent = isGranted;
    // Later, because a `config` may follow in the same queue.
    if (isGranted) setTimeout(safely(start));
    else stop();
  },

  /**
   * 8.5: ['event', name, {data: {...}}]; 8.1: ['event', {eventName: name, ...data}].
   * @param {string|{eventName: string}} what
   * @param {{data?: object}} [options]
   */
  event(what, options) {
    const isNamed = typeof what === 'string';
    const name = isNamed ? what : what.eventName;
    // Descriptors, because reading the values may throw.
    const { eventName, ...rest } = Object.getOwnPropertyDescriptors(isNamed ? Object(options) : what);
    const { data } = Object(isNamed && options);
    raise(
      name.replace(/^send(?=(SignIn|SignOut|UserInfo)$)/, ''),
      data == null ? Object.defineProperties({}, rest) : data
    );
  },

  /**
   * `alias` is for widgets of Genesys Web Engagement (GWE), which pass it on.
   * @param {(ids: {visitID: string, globalVisitID: string, pageID: string, alias: ''}) => void} callback
   */
  getIDs(callback) {
    ensurePage();
    setTimeout(callback, 0, { visitID: page.visitID, globalVisitID: globalVisitID(), pageID: page.id, alias: '' });
  },

  /**
   * @param {(code: {code: string, validSeconds: number}) => void} callback with 6 digits that find this visit for an
   *   agent; '' when there is no code
   */
  getVisitCode(callback) {
    ensurePage();
    flush();
    askForCode(callback, 3);
  },

  /** A command of GWE's engagement. Footfall sends pages no notifications. */
  on() {
    debug('no chat, callback or notifications (_gwc, on) here');
    commands.on = () => {};
  },
};

IDENTITY_EVENTS.forEach((name) => {
  commands['send' + name] = (options) => raise(name, options || {});
});

/** @param {any[]} call */
function run([name, ...args]) {
  if (Object.keys(commands).includes(name)) commands[name](...args);
  else debug('unknown command', name);
}

/** @param {any[]} call */
function accept(call) {
  const isSetting = call[0] === 'config' || call[0] === 'consent';
  if (isStarted || isSetting) run(call);
  else if (consent !== false && held.length < MAX_EVENTS) held.push(call);
}
