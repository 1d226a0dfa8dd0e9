// The list of what came, the newest first. Bounded: what comes faster than it can be shown is counted, not shown.
// Rows are made a few times a second at most, in one piece, and their details only where somebody opens them.

const ROWS = 200;
const FLUSH_MILLISECONDS = 120;

class EventList {
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.waiting = [];
    this.unshown = 0;
    this.paused = false;
    this.scheduled = false;
    this.flushedAt = 0;
    list.addEventListener("keydown", (event) => this.move(event));
    list.addEventListener("focusin", (event) => this.stop(event.target.closest("summary")));
  }

  /** One more `{kind, at, message}`, or `{kind: "note", at, text}`. */
  add(item) {
    this.waiting.push(item);
    if (this.waiting.length > 2 * ROWS) this.drop();
    this.schedule();
  }

  /** Keep what can still be shown; of what goes, notes are worth more than events. */
  drop() {
    const old = this.waiting.splice(0, this.waiting.length - ROWS);
    const notes = old.filter((item) => item.kind !== "notification").slice(-ROWS / 2);
    this.unshown += old.length - notes.length;
    this.waiting.unshift(...notes);
  }

  get held() {
    return this.paused ? this.waiting.length + this.unshown : 0;
  }

  pause(paused) {
    this.paused = paused;
    this.schedule();
  }

  clear() {
    this.waiting = [];
    this.unshown = 0;
    this.list.replaceChildren();
    this.empty.hidden = false;
  }

  schedule() {
    if (this.scheduled || this.paused || !this.waiting.length) return;
    this.scheduled = true;
    requestAnimationFrame((now) => this.flush(now));
  }

  flush(now) {
    if (now - this.flushedAt < FLUSH_MILLISECONDS && this.flushedAt <= now) {
      requestAnimationFrame((later) => this.flush(later));
      return;
    }
    this.scheduled = false;
    if (this.paused) return;
    this.flushedAt = now;
    if (this.waiting.length > ROWS) this.drop();
    const rows = this.waiting.map(eventRow);
    this.waiting = [];
    if (this.unshown) rows.unshift(noteRow({ kind: "skipped", text: `${count(this.unshown)} events came too fast to be shown` }));
    this.unshown = 0;
    this.show(rows.reverse());
  }

  show(rows) {
    const focused = this.list.contains(document.activeElement);
    const excess = this.list.children.length + rows.length - ROWS;
    for (let i = 0; i < excess && this.list.lastElementChild; i += 1) this.list.lastElementChild.remove();
    this.list.prepend(...rows.slice(0, ROWS));
    this.empty.hidden = true;
    if (focused && this.list.contains(document.activeElement)) return;
    const newest = this.list.querySelector("summary");
    this.stop(newest);
    if (focused) newest?.focus();
  }

  /** One row is the list's stop for the Tab key, the newest until somebody moves on by the arrows. */
  stop(summary) {
    if (!summary) return;
    for (const other of this.list.querySelectorAll('summary[tabindex="0"]')) other.tabIndex = -1;
    summary.tabIndex = 0;
  }

  move(event) {
    const summaries = [...this.list.querySelectorAll("summary")];
    const here = summaries.indexOf(event.target);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: summaries.length - 1 }[event.key];
    if (here < 0 || to === undefined) return;
    event.preventDefault();
    summaries[Math.min(Math.max(to, 0), summaries.length - 1)].focus();
  }
}

function eventRow(item) {
  if (item.kind !== "notification") return noteRow(item);
  const { message, at } = item;
  const summary = make(
    "summary",
    { tabIndex: -1 },
    make("time", { textContent: clock(at, { fraction: true }) }),
    make("b", { textContent: message.channel }),
    make("code", { textContent: payloadLine(message) }),
    make("span", { className: "id", textContent: shortId(message.id), title: message.id ?? "without a position" }),
  );
  if (message.late) summary.insertBefore(make("em", { textContent: "late", title: "comes after newer ones" }), summary.children[2]);
  const details = make("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const about = [`id ${message.id}`, message.cursor ? `cursor ${message.cursor}` : "", `${bytes(message.raw.length)} of JSON`];
    details.append(
      make("pre", { tabIndex: 0, textContent: payloadPretty(message) }),
      make("p", { className: "soft", textContent: about.filter(Boolean).join(" · ") }),
    );
  });
  const row = make("li", {}, details);
  row.dataset.kind = message.late ? "late" : "notification";
  row.dataset.id = message.id ?? "";
  return row;
}

/** What is no event: where the subscription began, what may be missing, where it stands, and what the page itself did. */
function noteRow({ kind, at, text }) {
  const row = make("li", { className: "note" }, make("time", { textContent: at ? clock(at, { fraction: true }) : "" }), make("b", { textContent: kind }), make("span", { textContent: text, title: text }));
  row.dataset.kind = kind;
  return row;
}

/** A message that is no notification, in words. */
function describe(message) {
  const between = `after ${shortId(message.after)}, before ${shortId(message.before)}`;
  switch (message.type) {
    case "subscribed": {
      const where = Object.entries(message.where ?? {}).map(([name, value]) => `${name}=${[value].flat().join("|")}`);
      const which = [message.channels.join(", "), ...where].filter(Boolean).join(" where ");
      return `${which}; from ${shortId(message.position)} on nothing is missed`;
    }
    case "gap":
      return message.pending
        ? `events ${between} may be missing (${message.reason}); they may still come, late`
        : `events ${between} may be missing: ${message.reason}`;
    case "filled":
      return `what was missing ${between} has come: nothing was lost`;
    case "position":
    case "pong":
      return `nothing new, the cursor is ${message.cursor ?? "unknown"}`;
    case "error":
      return `${message.code}: ${message.message}`;
    default:
      return message.raw.slice(0, LINE_CHARACTERS);
  }
}
