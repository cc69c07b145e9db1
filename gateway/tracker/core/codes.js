// Codes: 6 digits that find this visit for an agent.

/**
 * Asks the gateway for the code of the visit, which it knows a moment after the first event has arrived.
 * @param {(answer: {code: string, validSeconds: number}) => void} callback
 * @param {number} repeats
 */
function askForCode(callback, repeats) {
  const site = encodeURIComponent(config.site || '');
  fetch(endpoint() + '/visit-code?visitID=' + page.visitID + '&site=' + site, { method: 'POST' })
    .then((response) => response.json())
    .catch(debug)
    .then((answer) => {
      // An error has no code.
      const { code = '', validSeconds = 0 } = Object(answer);
      if (code || !repeats) setTimeout(callback, 0, { code, validSeconds });
      else setTimeout(askForCode, 1000, callback, repeats - 1);
    });
}
