// JSON: the data of an event as text, whatever the page has put in.

// What the gateway stores, less one level for `value`. An event with more than that it refuses for good.
const MAX_DEPTH = 31;
const MAX_KEYS = 1000;
const MAX_KEY_LENGTH = 256;

let keysLeft = 0;

/** @param {unknown} data @returns {string} a JSON object, also for data that are none */
function dataText(data) {
  keysLeft = MAX_KEYS;
  const text = valueText([data], 0, []) || '{}';
  return text.startsWith('{') ? text : '{"value":' + text + '}';
}

/**
 * What JSON.stringify makes of `holder[key]`, and the type in brackets ("[object]") where it would fail.
 * @param {any} holder
 * @param {string|number} key
 * @param {unknown[]} above what the value is in
 * @returns {string|undefined} undefined for what JSON leaves out
 */
function valueText(holder, key, above) {
  /** @type {any} */
  let value;
  try {
    value = holder[key];
    // Prototype.js gives arrays a `toJSON` that makes them strings.
    if (!Array.isArray(value)) {
      const flat = JSON.stringify(value, []); // objects without their keys, everything else as it is
      if (!/^[[{]/.test(flat)) return flat;
      if (typeof value.toJSON === 'function') value = value.toJSON(key);
    }
    if (above.includes(value) || above.length >= MAX_DEPTH) throw new Error('inside itself, or too deep');
    const inside = [...above, value];
    if (Array.isArray(value)) return '[' + [...value].map((_, index) => valueText(value, index, inside) || 'null') + ']';
    return '{' + Object.keys(value)
      .filter((name) => (name.length <= MAX_KEY_LENGTH && keysLeft-- > 0) || debug('data', name, 'left out'))
      .map((name) => [name, valueText(value, name, inside)])
      .filter(([, text]) => text)
      .map(([name, text]) => JSON.stringify(name) + ':' + text) + '}';
  } catch (error) {
    debug('data', key, error);
    return '"[' + typeof value + ']"';
  }
}
