// A worker that sends visitors of invented websites, for who looks at the console alone; `make demo` does the same from a
// terminal. A message with a number lets so many arrive in a minute; 0: nobody any more.
'use strict';

const MOST = 500; // at a time
const MOST_PEOPLE = 120;

/** @typedef {{path: string, title: string, event?: string, data?: object, share?: number}} Page */
/** @typedef {{name: string, host: string, pages: Page[]}} Website */

let perMinute = 0;
let here = 0;
let isArriving = false;

/** @param {number} seconds */
function pause(seconds) {
  return new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
}

/** @param {number} least @param {number} most */
function between(least, most) {
  return least + Math.random() * (most - least);
}

/** Seconds, the mean of which is given; short ones are more frequent. @param {number} mean */
function about(mean) {
  return -mean * Math.log(1 - Math.random());
}

/** @template T @param {T[]} list @returns {T} */
function oneOf(list) {
  return list[Math.floor(Math.random() * list.length)];
}

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @param {object[]} events */
async function send(events) {
  const now = Date.now();
  const body = JSON.stringify(events.map((event, number) => ({ ...event, eventID: newId(), timestamp: now + number })));
  await fetch('/beacon', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body }).catch(() => {}); // the next one may arrive
}

/** A visit from its first page to leaving. @param {Website} site @param {object | undefined} person */
async function visit({ name, host, pages }, person) {
  const visitID = newId();
  let left = [];
  for (const [number, page] of pages.slice(0, 1 + Math.floor(Math.random() * pages.length)).entries()) {
    const common = { visitID, pageID: newId(), site: name, url: `https://${host}${page.path}` };
    if (number) await pause(about(12));
    await send([...left, { ...common, eventName: 'PageEntered', data: { title: page.title } }]);
    if (number === 1 && person) {
      await pause(between(3, 15));
      await send([{ ...common, eventName: 'SignIn', data: person }]);
    }
    if (page.event && Math.random() < (page.share || 0)) {
      await pause(between(2, 20));
      await send([{ ...common, eventName: page.event, data: page.data }]);
    }
    left = [{ ...common, eventName: 'PageExited' }];
  }
  await pause(between(5, 120));
  await send(left);
}

async function arrive() {
  isArriving = true;
  const { websites, firstNames, lastNames } = await (await fetch('visitors.json')).json();
  while (perMinute) {
    if (here < MOST) {
      const number = String(Math.floor(Math.random() * MOST_PEOPLE)).padStart(3, '0');
      const [firstName, lastName] = [firstNames[Number(number) % firstNames.length], lastNames[Math.floor(Number(number) / firstNames.length)]];
      const person = { userID: `customer-${number}`, firstName, lastName, email: `customer-${number}@mail.example` };
      here += 1;
      visit(oneOf(websites), Math.random() < 0.6 ? person : undefined).finally(() => { here -= 1; });
    }
    await pause(about(60 / perMinute));
  }
  isArriving = false;
}

onmessage = ({ data }) => {
  perMinute = data;
  if (!isArriving) arrive();
};
