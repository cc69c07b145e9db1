// What too many share: values that many identities give, and identities on many devices, with what to do about each.

import { personAddress } from './addresses.js';
import { ask, path, query } from './api.js';
import { element, moment, table } from './dom.js';
import { figure, t } from './text.js';

const MOST = 50;

export class SharedParts {
  /** Draws into `root`. `may(scope)`: of the caller. */
  constructor(root, may) {
    Object.assign(this, { root, may });
  }

  /** Read and draw, until `signal` is aborted. */
  async load(signal) {
    this.signal = signal;
    try {
      const page = query({ page_size: MOST });
      const [{ values, nextPageToken: moreValues }, { identities, nextPageToken: moreIdentities }] = await Promise.all(
        ['generic-values', 'shared-identities'].map((name) => ask(`/api/v1/${name}${page}`, { signal })),
      );
      if (signal.aborted) return;
      this.root.replaceChildren(...this.valueParts(values, moreValues), ...identityParts(identities, moreIdentities));
    } catch (problem) {
      if (!signal.aborted) this.root.replaceChildren(element('p', { class: 'problem', role: 'alert' }, problem.message));
    }
  }

  valueParts(values, hasMore) {
    if (!values.length && !hasMore) return [];
    const rows = values.map((value) => [element('code', {}, value.value), figure(value.identityCount), since(value), use(value), this.choice(value)]);
    return [
      element('h3', {}, t('Values that too many identities give')),
      element('p', { class: 'soft' }, t('Rules do not link by them: the number of a call center, the address of an office. Correct the page or form that sends them. Allow a value only if it belongs to one contact all the same.')),
      table(t('Values that too many identities give'), [t('Value'), t('Identities'), t('Since'), t('Rules use it'), ''], rows, true),
      more(hasMore),
    ].filter(Boolean);
  }

  choice({ valueId, value, allowed }) {
    if (!this.may('contacts')) return '';
    const [words, name] = allowed ? [t('Forbid'), t('Forbid {value}', { value })] : [t('Allow'), t('Allow {value}', { value })];
    return element('button', { type: 'button', class: 'quiet', 'aria-label': name, onclick: () => this.decide(valueId, !allowed) }, words);
  }

  async decide(valueId, allowed) {
    try {
      await ask(path(['/api/v1/generic-values/', ''], valueId), { method: 'PUT', body: { allowed } });
    } catch (problem) {
      if (!this.signal.aborted) this.root.prepend(element('p', { class: 'problem', role: 'alert' }, problem.message));
      return;
    }
    await this.load(this.signal);
  }
}

function identityParts(identities, hasMore) {
  if (!identities.length && !hasMore) return [];
  const rows = identities.map(({ identityId, deviceDays, lastEventTime }) => {
    const { date, deviceCount } = deviceDays.reduce((one, other) => (other.deviceCount > one.deviceCount ? other : one));
    return [element('a', { href: personAddress(identityId) }, identityId), t('{count} on {day}', { count: figure(deviceCount), day: date }), moment(lastEventTime)];
  });
  return [
    element('h3', {}, t('Identities on too many devices')),
    element('p', { class: 'soft' }, t('A kiosk, an agent who signs in for customers, or an id that a page gives to everybody. Rules link them only by what a token proves. Mark agents as staff in the identity policy, or correct the page.')),
    table(t('Identities on too many devices'), [t('Identity'), t('Most devices'), t('Last event')], rows, true),
    more(hasMore),
  ].filter(Boolean);
}

function since({ sinceTime }) {
  return sinceTime === null ? t('no longer') : moment(sinceTime);
}

function use({ allowed, actor, assurance }) {
  if (allowed) return t('yes, allowed by {actor}', { actor });
  return assurance === 'claimed' ? t('only where a token proves it') : t('no');
}

function more(hasMore) {
  return hasMore ? element('p', { class: 'soft' }, t('There are more. The API lists all.')) : '';
}
