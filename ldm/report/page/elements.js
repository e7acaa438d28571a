// Making elements. Text is only ever inserted as text: prompts, names and options may contain markup.

const SVG = "http://www.w3.org/2000/svg";

const byId = id => document.getElementById(id);

const element = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

const shape = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

// `onclick` and its like are listeners; true is an attribute without a value; false and null leave it out.
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child != null && child !== false));
  return node;
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

function scrollTo(node, block = "start") {
  node.scrollIntoView({behavior: still.matches ? "auto" : "smooth", block, inline: "nearest"});
}
