// How sure it is who a visitor is, in words, with what follows for the person who talks to the visitor.

import { t } from './text.js';

const ADVICE = {
  proven: t('The website’s server has confirmed this sign-in.'),
  claimed: t('Only the page says so, and nobody has signed it. Ask a security question first.'),
  unknown: t('Whether the sign-in is verified is not known yet. Until then ask a security question.'),
  RECOGNIZED: t('The website remembers this person, who is not signed in: it may be somebody else at the same device. Ask who it is.'),
  ANONYMOUS: t('Nobody has said who this is. Ask for a name, an e-mail address or a telephone number.'),
};

/** What to do with this state and assurance (undefined: not known). */
export function advice(state, assurance) {
  return state === 'AUTHENTICATED' ? ADVICE[assurance || 'unknown'] : ADVICE[state];
}

/** How far the state can be trusted: as the SignIn that opened the session. undefined: not known, or anonymous. */
export function sessionAssurance(visitor, transitions) {
  if (visitor.assurance) return visitor.assurance;
  if (visitor.state !== 'AUTHENTICATED') return visitor.state === 'RECOGNIZED' ? 'claimed' : undefined;
  const opened = (transitions || []).findLast(({ before, after }) => (
    after.sessionId !== before.sessionId && after.sessionId === visitor.sessionId));
  return opened && opened.assurance;
}

const WAYS = {
  EmailAddress: t('by e-mail address'),
  PhoneNumber: t('by telephone number'),
  'FirstName+LastName': t('by name only'),
};

/** How a contact was found: `words`, `kind` for the eye (by-hand, by-address, by-name), and what to do, if anything. */
export function wayOf({ rule, actor, assurance }) {
  if (rule === 'manual') return { kind: 'by-hand', words: t('linked by hand, by {actor}', { actor }) };
  const sure = assurance === 'proven' ? t('verified') : t('not verified');
  const words = `${WAYS[rule] || t('by a rule')}, ${sure}`;
  if (rule !== 'FirstName+LastName') return { kind: `by-address ${assurance || ''}`.trim(), words };
  return { kind: 'by-name', words, todo: t('Others may have the same name: compare the e-mail address or telephone number.') };
}

const REASONS = {
  token_valid: t('verified: a token of the website’s server proves it'),
  no_key: t('not verified: this website does not sign its sign-ins'),
};

/** How far a SignIn or UserInfo can be trusted. */
export function assuranceWords(assurance, reason) {
  return REASONS[reason] || (assurance === 'proven' ? t('verified') : t('not verified: the page says so'));
}
