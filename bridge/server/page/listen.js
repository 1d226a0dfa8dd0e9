// The place to try a subscription: the form, the counts, and who feeds the list.

const RATE_SECONDS = 3;

const list = new EventList($("events"), $("events-empty"));
const counts = { events: 0, late: 0, gaps: 0, earlier: [] };
let stream = null;
let knownChannels = "";

function start() {
  const chosen = [...$("channels").querySelectorAll("input:checked")].map((box) => box.value);
  const where = [...$("where").querySelectorAll(".condition")]
    .map((row) => [...row.querySelectorAll("input")].map((input) => input.value.trim()))
    .filter(([name]) => name);
  Object.assign(counts, { events: 0, late: 0, gaps: 0, earlier: [] });
  const token = $("token").value.trim();
  stream = connect("ws", { channels: chosen, where, token, onMessage: hear, onState: changed });
}

function hear(message) {
  if (message.type === "notification") {
    counts.events += 1;
    if (message.late) counts.late += 1;
    list.add({ kind: "notification", at: new Date(), message });
    return;
  }
  if (message.type === "gap" && !message.pending) counts.gaps += 1;
  const kind = message.type === "gap" && message.pending ? "pending" : message.type;
  list.add({ kind, at: new Date(), text: describe(message) });
  if (kind === "gap" || kind === "pending") showCounts();
}

function note(kind, text) {
  list.add({ kind, at: new Date(), text });
}

function changed({ state, resumes, why, waitSeconds, error }) {
  if (state === "waiting") {
    const where = stream.cursor ? ", from where it was" : "";
    note("reconnect", `${why}; trying again in ${waitSeconds.toFixed(1)} s${where}`);
  }
  if (error) note("stopped", error.message);
  const running = state !== "closed";
  mark($("stream-state"), "state", running ? state : "stopped");
  const texts = {
    connecting: resumes ? "Connecting again" : "Connecting",
    listening: "Listening",
    waiting: `Not connected: ${why}`,
    closed: error ? `Not listening: ${error.message}` : "Not listening",
  };
  write($("stream-text"), texts[state]);
  write($("start"), running ? "Stop" : "Start");
  for (const part of [$("channels"), $("where"), $("token")]) part.disabled = running;
  if (!running) stream = null;
  showCounts();
}

function showCounts() {
  showCount("events", counts.events, "event");
  write($("count-late"), count(counts.late));
  showCount("gaps", counts.gaps, "gap");
  mark($("count-gaps").parentElement, "some", String(counts.gaps > 0));
  if (stream) showCount("reconnects", stream.reconnects, "reconnect");
  const { earlier } = counts;
  const [since, before] = earlier[0] ?? [performance.now(), counts.events];
  write($("count-rate"), rate((counts.events - before) / Math.max(1, (performance.now() - since) / 1000)));
  $("held").hidden = !list.paused;
  write($("count-held"), count(list.held));
}

function showCount(name, value, noun) {
  write($(`count-${name}`), count(value));
  write($(`count-${name}`).nextElementSibling, value === 1 ? noun : `${noun}s`);
}

function everySecond() {
  counts.earlier.push([performance.now(), counts.events]);
  if (counts.earlier.length > RATE_SECONDS) counts.earlier.shift();
  showCounts();
}

function addCondition() {
  const row = make("div", { className: "condition" });
  const remove = make("button", { type: "button", className: "quiet", textContent: "Remove", onclick: () => {
    row.remove();
    $("add-condition").focus();
  } });
  const name = make("input", { spellcheck: false, placeholder: "match_id", "aria-label": "Field", autocapitalize: "off" });
  const value = make("input", { spellcheck: false, placeholder: "7", "aria-label": "Value", autocapitalize: "off" });
  row.append(name, make("span", { textContent: "=", "aria-hidden": "true" }), value, remove);
  $("where").querySelector(".conditions").append(row);
  name.focus();
}

/** The form follows what the bridge says of itself; what was chosen stays chosen. */
statusListeners.push((status) => {
  $("token-row").hidden = status.auth !== "jwt";
  const names = status.channels ?? [];
  if (knownChannels === JSON.stringify(names)) return;
  knownChannels = JSON.stringify(names);
  const chosen = new Set([...$("channels").querySelectorAll("input:checked")].map((box) => box.value));
  const chips = names.map((name) =>
    make("label", {}, make("input", { type: "checkbox", value: name, checked: chosen.has(name) }), make("span", { textContent: name })),
  );
  $("channels").querySelector(".chips").replaceChildren(...chips);
});

$("subscription").addEventListener("submit", (event) => {
  event.preventDefault();
  if (stream) stream.close();
  else start();
});
$("pause").addEventListener("click", () => {
  list.pause(!list.paused);
  $("pause").setAttribute("aria-pressed", String(list.paused));
  write($("pause"), list.paused ? "Go on" : "Pause");
  showCounts();
});
$("clear").addEventListener("click", () => {
  list.clear();
  showCounts();
});
$("add-condition").addEventListener("click", addCondition);
setInterval(everySecond, 1000);
