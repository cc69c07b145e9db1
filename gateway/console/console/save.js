// Files that the console makes.

import { element } from './dom.js';

const KEPT_MS = 60000; // until the memory of a file is freed

/** Offer a file to the user. */
export function save(blob, name) {
  const link = element('a', { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}
