// The compact view of one visit, for a frame in the page of an agent's desktop: /console/visits/<id>?view=compact. Its session
// comes from a link that can be used once, in the fragment: #link=<token>.

/** Whether this page shows the compact view. */
export const isCompact = new URLSearchParams(location.search).get('view') === 'compact';

/** The token of the link, which is taken out of the address; empty: there is none. */
export function takeLink() {
  const token = new URLSearchParams(location.hash.slice(1)).get('link') || '';
  if (token) history.replaceState(null, '', location.pathname + location.search);
  return token;
}

/** Tell the embedding page how high the view is, at first and whenever that changes. */
export function postHeight() {
  if (window === parent) return;
  new ResizeObserver(() => {
    const height = Math.ceil(document.body.getBoundingClientRect().height);
    parent.postMessage({ type: 'footfall.height', height }, '*'); // a number for whoever embeds the view
  }).observe(document.body);
}
