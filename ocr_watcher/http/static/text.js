// Text of unknown origin, shown as what it is. Nothing here or elsewhere on the page parses HTML.

// Characters that nobody sees and that turn others around, or command a terminal. Not the two joiners, which
// Persian, Indic scripts and emoji are written with.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/u;
const UNSEEN_OR_NOT = new RegExp(`(${UNSEEN.source})`, "u");

/** Put text into an element, in place of what is there. An unseen character is marked, and turns no other. */
export function put(element, text) {
  if (!UNSEEN.test(text)) {
    if (element.textContent !== text || element.childElementCount) element.textContent = text;
    return element;
  }
  element.replaceChildren(
    ...text.split(UNSEEN_OR_NOT).filter(Boolean).map((piece) => {
      if (!UNSEEN.test(piece)) return document.createTextNode(piece);
      const mark = make("bdi", { class: "unseen" }, piece);
      mark.dataset.code = "U+" + piece.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      return mark;
    }),
  );
  return element;
}

/** An element with attributes and children, which are elements or plain text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The same in SVG. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

export const counted = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

export const mib = (value) => `${Math.round(value).toLocaleString("en")} MiB`;

export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A moment (Date or ISO 8601) in local time; without the day where that is today. */
export function moment(when) {
  const date = new Date(when);
  return date.toDateString() === new Date().toDateString() ? clock.format(date) : calendar.format(date);
}
