// JSON: the data of an event as text, for any value of the page.

// The limits of the collector, less one level for `value`. It rejects an event beyond them permanently.
const MAX_DEPTH = 31;
const MAX_KEYS = 1000;
const MAX_KEY_LENGTH = 256;

let keysLeft = 0;

/** @param {unknown} data @returns {string} a JSON object, with other values as `value` */
function dataText(data) {
  keysLeft = MAX_KEYS;
  const text = valueText([data], 0, []) || '{}';
  return text.startsWith('{') ? text : '{"value":' + text + '}';
}

/**
 * The JSON of `holder[key]`, or the type in brackets ("[object]") where JSON.stringify would throw.
 * @param {any} holder
 * @param {string|number} key
 * @param {unknown[]} above the values that contain this one
 * @returns {string|undefined} undefined for what JSON leaves out
 */
function valueText(holder, key, above) {
  /** @type {any} */
  let value;
  try {
    value = holder[key];
    // Prototype.js gives arrays a `toJSON` that returns a string.
    if (!Array.isArray(value)) {
      const flat = JSON.stringify(value, []); // objects without their keys, everything else as it is
      if (!/^[[{]/.test(flat)) return flat;
      if (typeof value.toJSON === 'function') value = value.toJSON(key);
    }
    if (above.includes(value) || above.length >= MAX_DEPTH) throw new Error('circular, or nested too deeply');
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
