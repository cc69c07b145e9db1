// Texts in the user's language, and how that language writes times and numbers. The sources have the English texts, which
// are the keys of the other languages: language.de.js.

const LANGUAGES = ['en', 'de'];

const chosen = navigator.languages.find((one) => LANGUAGES.includes(languageOf(one)));

/** The language of the texts. */
export const language = chosen ? languageOf(chosen) : 'en';

/** The locale of times and numbers. They are in the time zone of the browser. */
export const locale = chosen || 'en-GB';

const words = language === 'en' ? {} : (await import(`./language.${language}.js`)).default;

function languageOf(tag) {
  return tag.slice(0, 2).toLowerCase();
}

/** A text in the user's language, with values for its `{names}`. */
export function t(text, values = {}) {
  return wordsOf(text).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The same as a list for `element`: the values may be elements. */
export function parts(text, values) {
  return wordsOf(text).split(/\{(\w+)\}/).map((piece, number) => (number % 2 ? values[piece] : piece));
}

function wordsOf(text) {
  return Object.hasOwn(words, text) ? words[text] : text;
}

const numbers = new Intl.NumberFormat(locale);

/** A number as the user's language writes it. */
export function figure(value) {
  return numbers.format(value);
}

/** A number with its noun. */
export function counted(value, one, several = `${one}s`) {
  return `${figure(value)} ${t(value === 1 ? one : several)}`;
}

const ATTRIBUTES = ['aria-label', 'placeholder', 'title'];

/** Translate the texts that are in a page itself. */
export function translate(page) {
  page.documentElement.lang = language;
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const { data } = texts.currentNode;
    const text = data.trim();
    if (text) texts.currentNode.data = data.replace(text, () => wordsOf(text));
  }
  for (const name of ATTRIBUTES) {
    for (const one of page.querySelectorAll(`[${name}]`)) one.setAttribute(name, wordsOf(one.getAttribute(name)));
  }
}
