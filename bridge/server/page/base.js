// What all parts of the page use: elements, and numbers as people read them.
// Whatever comes from a payload enters the page as text alone: nothing here knows how to make markup of a string.

const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Sets text only where it differs, so that a selection and a screen reader's place survive. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

const whole = new Intl.NumberFormat("en");

function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

/** A rate in few characters: 0, 0.4, 17, 1,204, 12.3k. */
function rate(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10_000) return `${(value / 1000).toFixed(1)}k`;
  return value > 0 && value < 10 ? value.toFixed(1) : whole.format(Math.round(value));
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const unit of ["B", "KiB", "MiB"]) {
    if (value < 1024) return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} GiB`;
}

function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** How long something lasted: 12 s, 4 min, 3 h 20 min, 5 d. */
function duration(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d`;
}

function clock(at, { fraction = false } = {}) {
  const two = (number) => String(number).padStart(2, "0");
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return fraction ? `${text}.${String(at.getMilliseconds()).padStart(3, "0")}` : text;
}

/** A position in few characters: terms are long, and their last digits tell them apart. */
function shortId(id) {
  if (!id) return "–";
  const dash = id.indexOf("-");
  if (dash <= 8) return id;
  return `…\u2060${id.slice(dash - 5).replace("-", "\u2060-\u2060")}`; // word joiners: no line breaks in it
}

function announce(text) {
  write($("announcement"), text);
}
