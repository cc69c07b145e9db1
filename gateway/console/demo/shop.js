// The demo shop: a small website with a catalogue, a cart and two customers, which reports its events to the tracker.
'use strict';

/** @typedef {{id: string, name: string, price: number, kind: string, text: string, facts: string[]}} Product */

/** @type {Product[]} */
const CATALOGUE = [
  {
    id: 'dripper', name: 'Stoneware dripper', price: 38, kind: 'Brewing',
    text: 'A cone with eighteen ribs, thrown and glazed by hand. It holds its heat through the whole pour.',
    facts: ['For one to three cups', 'Stoneware, matt glaze', 'Takes paper filters of size 2'],
  },
  {
    id: 'kettle', name: 'Gooseneck kettle', price: 94, kind: 'Water',
    text: 'A spout as thin as a pencil, so that the water lands where you look. Works on gas and induction.',
    facts: ['0.9 litres', 'Brushed steel, ash handle', 'Pours at 3 to 6 g a second'],
  },
  {
    id: 'grinder', name: 'Hand grinder', price: 129, kind: 'Grinding',
    text: 'Steel burrs on two bearings, and thirty clicks between espresso and French press. Twenty seconds a cup.',
    facts: ['38 mm conical burrs', '25 g hopper', 'Comes apart without tools'],
  },
  {
    id: 'scale', name: 'Brewing scale', price: 62, kind: 'Measuring',
    text: 'Weight and time, nothing else. It answers within a tenth of a second and never asks for an app.',
    facts: ['0.1 g steps up to 2 kg', 'Charges by USB-C', 'Waterproof top'],
  },
  {
    id: 'mug', name: 'Heavy mug', price: 24, kind: 'Drinking',
    text: 'Thick at the foot and thin at the lip. Made with the dripper, from the same clay.',
    facts: ['280 ml', 'Stoneware, matt glaze', 'Dishwasher safe'],
  },
  {
    id: 'beans', name: 'House beans, 500\u00a0g', price: 19, kind: 'Coffee',
    text: 'Washed Caturra from Nariño: red apple, cane sugar, a long finish. Roasted on Tuesdays.',
    facts: ['Whole beans', 'Medium roast', 'Best within eight weeks'],
  },
];

/** @typedef {{userID: string, firstName: string, lastName: string, email: string, phone: string}} Customer */

/** The sample customers. Their buttons sign in without a password. @type {Customer[]} */
const CUSTOMERS = [
  { userID: 'dana@example.com', firstName: 'Dana', lastName: 'Oak', email: 'dana@example.com', phone: '+12025550190' },
  { userID: 'robin@example.com', firstName: 'Robin', lastName: 'Hale', email: 'robin@example.com', phone: '+12025550191' },
];

const SHIPPING = 6;
const YEAR_S = 365 * 24 * 60 * 60;

// The shop's own data: the customer who is signed in (until the browser is closed), the remembered customer (a year), and
// the cart.

/** @param {string} name */
function cookie(name) {
  const found = document.cookie.match('(?:^|; )' + name + '=([^;]*)');
  return found ? decodeURIComponent(found[1]) : '';
}

/** @param {string} name @param {string} value @param {number} [maxAge] seconds */
function setCookie(name, value, maxAge) {
  const age = maxAge === undefined ? '' : '; Max-Age=' + maxAge;
  document.cookie = name + '=' + encodeURIComponent(value) + '; Path=/demo; SameSite=Lax' + age;
}

/** @param {string} userID */
function customer(userID) {
  return CUSTOMERS.find((each) => each.userID === userID);
}

function signedIn() {
  return customer(cookie('shop_session'));
}

/** @returns {Object<string, number>} quantity by product */
function readCart() {
  try {
    return JSON.parse(localStorage.shop_cart || '{}');
  } catch (unreadable) {
    return {};
  }
}

/** @param {Object<string, number>} cart */
function writeCart(cart) {
  localStorage.shop_cart = JSON.stringify(cart);
}

function cartLines() {
  const cart = readCart();
  return CATALOGUE.filter(({ id }) => cart[id]).map((product) => ({ product, quantity: cart[product.id] }));
}

function cartTotal() {
  return cartLines().reduce((sum, { product, quantity }) => sum + product.price * quantity, 0);
}

// Events for the tracker.

/** @param {string} name @param {object} data */
function track(name, data) {
  /** @type {any} */ (window)._gt.push(['event', name, { data }]);
}

/** Reports a remembered customer, once in a browser session, before a customer signs in. */
function recognize() {
  const remembered = customer(cookie('shop_remembered'));
  if (!remembered || cookie('shop_recognized')) return;
  setCookie('shop_recognized', remembered.userID);
  track('UserInfo', remembered);
}

/** @param {Customer} who @param {boolean} isRemembered */
function signIn(who, isRemembered) {
  setCookie('shop_session', who.userID);
  setCookie('shop_recognized', who.userID);
  setCookie('shop_remembered', isRemembered ? who.userID : '', isRemembered ? YEAR_S : 0);
  track('SignIn', who);
}

function signOut() {
  const who = signedIn();
  setCookie('shop_session', '', 0);
  if (who) track('SignOut', { userID: who.userID });
}

/** @param {string} id @param {number} change */
function addToCart(id, change) {
  const cart = readCart();
  cart[id] = Math.max(0, (cart[id] || 0) + change);
  writeCart(cart);
  const product = CATALOGUE.find((each) => each.id === id);
  if (product) track(change > 0 ? 'AddToCart' : 'RemoveFromCart', { sku: id, name: product.name, price: product.price });
}

function placeOrder() {
  const items = cartLines().map(({ product, quantity }) => ({ sku: product.id, quantity }));
  track('OrderPlaced', { total: cartTotal() + SHIPPING, currency: 'EUR', items });
  writeCart({});
}

// Pages.

/** @param {number} amount */
function money(amount) {
  return '€' + amount.toFixed(2).replace(/\.00$/, '');
}

/** @param {string} address */
function go(address) {
  location.href = address;
}

function header() {
  const who = signedIn();
  const remembered = customer(cookie('shop_remembered'));
  const count = cartLines().reduce((sum, { quantity }) => sum + quantity, 0);
  const account = who ? who.firstName : remembered ? 'Hello again, ' + remembered.firstName : 'Sign in';
  return `
    <a class="brand" href="./"><img src="img/mark.svg" alt="" width="28" height="28">Halde</a>
    <nav>
      <a href="./#catalogue">Catalogue</a>
      <a href="account.html" id="account">${account}</a>
      <a class="cart-link" href="cart.html">Cart <span class="count" aria-label="${count} items">${count}</span></a>
    </nav>`;
}

// The bar is Footfall's own and has the words of the console, in the browser's language; the shop is an English website.
const BAR = {
  en: {
    about: 'About this demonstration', you: 'A demonstration. You are visit', see: 'See yourself in the console',
    anonymous: 'Anonymous', recognized: 'Recognized as', authenticated: 'Authenticated as',
    send: 'Send other visitors', stop: 'Send no more visitors', rate: 'Visitors a minute',
  },
  de: {
    about: 'Über diese Vorführung', you: 'Eine Vorführung. Sie sind Besuch', see: 'Sehen Sie sich in der Konsole',
    anonymous: 'Anonym', recognized: 'Erkannt als', authenticated: 'Angemeldet als',
    send: 'Andere Besucher senden', stop: 'Keine Besucher mehr senden', rate: 'Besucher in der Minute',
  },
};
const language = navigator.languages.map((one) => one.slice(0, 2)).find((one) => one in BAR) === 'de' ? 'de' : 'en';
const words = BAR[language];

/** What the visitor should be in Footfall, by the events that this shop has reported in the visit. */
function visitorState() {
  const known = customer(cookie('shop_recognized'));
  if (!known) return words.anonymous;
  return `${signedIn() ? words.authenticated : words.recognized} ${known.firstName} ${known.lastName}`;
}

/** Says above the page that it is a demonstration, and who the visitor is. */
function showBar() {
  /** @type {any} */ (window)._gt.push(['getIDs', (/** @type {{visitID: string}} */ { visitID }) => {
    const bar = document.createElement('aside');
    bar.setAttribute('aria-label', words.about);
    bar.lang = language;
    bar.className = 'bar';
    bar.innerHTML = `<span>${words.you} ${visitID.slice(0, 8)}: <strong>${visitorState()}</strong></span>
      <a href="/console/visit/${visitID}" target="console">${words.see}</a>`;
    if (['localhost', '127.0.0.1'].includes(location.hostname)) bar.append(senderOfVisitors());
    document.body.prepend(bar);
  }]);
}

/** Sends other visitors at a chosen rate while the page is open, of a suite on this machine only. */
function senderOfVisitors() {
  const form = document.createElement('form');
  form.innerHTML = `<label>${words.rate} <select>${[6, 30, 120].map((rate) => `<option>${rate}</option>`).join('')}</select></label>
    <button>${words.send}</button>`;
  const [rate, button] = /** @type {[HTMLSelectElement, HTMLButtonElement]} */ ([...form.elements]);
  /** @type {Worker | undefined} */
  let sender;
  let isSending = false;
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    isSending = !isSending;
    sender = sender || new Worker('visitors.js');
    sender.postMessage(isSending ? Number(rate.value) : 0);
    rate.disabled = isSending;
    button.textContent = isSending ? words.stop : words.send;
  });
  return form;
}

function footer() {
  return `
    <p><strong>Halde is not a real shop.</strong> It is the demonstration website of Footfall: its pages carry the
      tracking script, and every page, sign-in and order here becomes part of a visit.</p>
    <p>Nothing is sold, sent or charged.</p>`;
}

function catalogue() {
  return CATALOGUE.map(({ id, name, price, kind }) => `
    <a class="card" href="product.html?item=${id}">
      <img src="img/${id}.svg" alt="" width="480" height="480" loading="lazy">
      <span class="eyebrow">${kind}</span>
      <span class="row"><strong>${name}</strong><span>${money(price)}</span></span>
    </a>`).join('');
}

function shownProduct() {
  const id = new URLSearchParams(location.search).get('item');
  return CATALOGUE.find((product) => product.id === id);
}

function product() {
  const shown = shownProduct();
  if (!shown) return `<section class="narrow"><h1>This product does not exist.</h1><a class="button" href="./">All six</a></section>`;
  track('ProductViewed', { sku: shown.id, name: shown.name, price: shown.price });
  return `
    <nav class="crumbs" aria-label="You are here"><a href="./">Catalogue</a> / ${shown.kind}</nav>
    <section class="product">
      <img src="img/${shown.id}.svg" alt="" width="480" height="480">
      <div>
        <h1>${shown.name}</h1>
        <p class="price">${money(shown.price)}</p>
        <p class="lead">${shown.text}</p>
        <ul>${shown.facts.map((fact) => `<li>${fact}</li>`).join('')}</ul>
        <p class="actions"><button class="button" data-add="${shown.id}">Add to cart</button>
          <span class="added" role="status"></span></p>
      </div>
    </section>`;
}

function cart() {
  const lines = cartLines();
  if (!lines.length) {
    return `<section class="narrow"><h1>Your cart is empty.</h1><p class="lead">The kettle is a good start.</p>
      <a class="button" href="./#catalogue">See the six</a></section>`;
  }
  const who = signedIn();
  const action = who
    ? `<button class="button" data-order>Place the order</button>
       <p class="note">It goes to ${who.firstName} ${who.lastName}, ${who.email}.</p>`
    : `<a class="button" href="account.html?next=cart">Sign in to order</a>
       <p class="note">Two sample customers are waiting there.</p>`;
  return `
    <h1>Your cart</h1>
    <div class="cart">
      <ul class="lines">${lines.map(({ product: { id, name, price }, quantity }) => `
        <li><a href="product.html?item=${id}"><img src="img/${id}.svg" alt="" width="96" height="96"></a>
          <div><a href="product.html?item=${id}"><strong>${name}</strong></a>
            <span class="quantity"><button data-remove="${id}" aria-label="One ${name} less">−</button>${quantity}
              <button data-add="${id}" aria-label="One ${name} more">+</button></span></div>
          <span>${money(price * quantity)}</span></li>`).join('')}
      </ul>
      <aside class="summary">
        <p class="row"><span>Goods</span><span>${money(cartTotal())}</span></p>
        <p class="row"><span>Shipping</span><span>${money(SHIPPING)}</span></p>
        <p class="row total"><span>Total</span><span>${money(cartTotal() + SHIPPING)}</span></p>
        ${action}
      </aside>
    </div>`;
}

function account() {
  const who = signedIn();
  if (who) {
    return `<section class="narrow"><p class="eyebrow">Signed in</p><h1>${who.firstName} ${who.lastName}</h1>
      <p class="lead">${who.email}<br>${who.phone}</p>
      <button class="button quiet" data-sign-out>Sign out</button></section>`;
  }
  return `
    <section class="narrow">
      <h1>Sign in</h1>
      <p class="lead">Be one of two sample customers. No password: the shop believes you.</p>
      <div class="people">${CUSTOMERS.map(({ userID, firstName, lastName, email }) => `
        <button class="person" data-sign-in="${userID}"><span class="initials">${firstName[0]}${lastName[0]}</span>
          <strong>${firstName} ${lastName}</strong><span>${email}</span></button>`).join('')}
      </div>
      <label class="remember"><input type="checkbox" id="remember" checked> Remember me on this device</label>
      <p class="note">Remembered customers are recognized when they come back with a new browser session, before they
        sign in.</p>
    </section>`;
}

function order() {
  const who = signedIn();
  return `<section class="narrow"><p class="eyebrow">Order placed</p>
    <h1>Thank you${who ? ', ' + who.firstName : ''}.</h1>
    <p class="lead">In a real shop something nice would be on its way to you now.</p>
    <p class="actions"><a class="button" href="./">Back to the shop</a>
      <button class="button quiet" data-sign-out>Sign out</button></p></section>`;
}

/** @type {Object<string, () => string>} */
const PARTS = { header, footer, catalogue, product, cart, account, order };

function render() {
  recognize();
  document.querySelectorAll('[data-part]').forEach((element) => {
    element.innerHTML = PARTS[element.getAttribute('data-part') || '']();
  });
}

/** @param {Event} event */
function onClick({ target }) {
  const button = target instanceof Element && target.closest('button');
  if (!button) return;
  const { add, remove, signIn: userID, signOut: isSignOut, order: isOrder } = button.dataset;
  if (add || remove) {
    addToCart(add || remove || '', add ? 1 : -1);
    const message = document.querySelector('.added');
    if (message) message.textContent = 'In your cart.';
    document.querySelectorAll('[data-part=header], [data-part=cart]').forEach((element) => {
      element.innerHTML = PARTS[element.getAttribute('data-part') || '']();
    });
  } else if (userID) {
    const who = customer(userID);
    const remember = /** @type {HTMLInputElement} */ (document.querySelector('#remember'));
    if (who) signIn(who, remember.checked);
    go(new URLSearchParams(location.search).get('next') === 'cart' ? 'cart.html' : 'account.html');
  } else if (isSignOut !== undefined) {
    signOut();
    go('./');
  } else if (isOrder !== undefined) {
    placeOrder();
    go('order.html');
  }
}

// Set before the tracker reads the title.
const titled = shownProduct();
if (titled) document.title = titled.name + ' · Halde';
document.addEventListener('DOMContentLoaded', render);
document.addEventListener('DOMContentLoaded', showBar);
document.addEventListener('click', onClick);
