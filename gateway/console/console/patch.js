// Changes what is shown into what it should be, and touches nothing else, so that focus, selection, open details and
// what is half typed stay. Elements that are drawn in this way have no listeners: their parent listens.

/** Make the children of `parent` like `made`. Children with the same `data-key` stay the same elements. */
export function patchChildren(parent, made) {
  const keyed = new Map([...parent.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let next = parent.firstChild;
  for (const wanted of made.flat(Infinity).filter((child) => child instanceof Node)) {
    const key = keyOf(wanted);
    const old = key ? keyed.get(key) : next;
    if (!old || old.nodeName !== wanted.nodeName || keyOf(old) !== key) {
      parent.insertBefore(wanted, next);
    } else {
      if (old === next) next = next.nextSibling;
      else parent.insertBefore(old, next);
      patch(old, wanted);
    }
  }
  while (next) {
    const last = next;
    next = next.nextSibling;
    last.remove();
  }
}

/** Make a node like another of the same name. What is below `data-kept` is drawn by others. */
export function patch(old, wanted) {
  if (!(old instanceof Element)) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value && name !== 'open') old.setAttribute(name, value);
  }
  if (!old.hasAttribute('data-kept')) patchChildren(old, [...wanted.childNodes]);
}

/** Put children in order. Only those in a wrong place are moved; the focus goes with its element. */
export function arrange(parent, children) {
  const focused = document.activeElement;
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] || null);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
  if (document.activeElement !== focused && parent.contains(focused)) focused.focus({ preventScroll: true });
}

function keyOf(node) {
  return node instanceof Element ? node.dataset.key : undefined;
}
