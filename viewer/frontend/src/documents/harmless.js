// The one place where HTML from the API goes into a page: of documents, made by the server from what agents wrote.

/**
 * A document of its own, whose scripts and handlers never run: only then does what is in it come to the page, and only
 * the elements and attributes that the server lets through. So a mistake on either side alone lets nothing in.
 */
const TAGS = new Set("A BLOCKQUOTE BR CODE DEL DIV EM H1 H2 H3 H4 H5 H6 HR LI OL P PRE S SPAN STRONG TABLE TBODY TD TH THEAD TR UL".split(" "));
const ATTRIBUTES = new Set(["class", "href", "rel", "start", "target", "title"]);
const LINK = /^(https?:|mailto:)/i;

/** @param {HTMLElement} node whose content it becomes @param {string} html of a document's view */
export function setHarmless(node, html) {
  const parsed = new DOMParser().parseFromString(html, "text/html").body;
  for (const found of parsed.querySelectorAll("*")) check(found);
  node.replaceChildren(...parsed.childNodes);
}

function check(found) {
  if (!TAGS.has(found.tagName)) return found.remove();
  for (const { name, value } of [...found.attributes]) {
    if (!ATTRIBUTES.has(name) || (name === "href" && !LINK.test(value))) found.removeAttribute(name);
  }
}
