// The way of events: the mode in words, as a map of two lines, and as a strip of time with every switch.

const MODES = { redis: "Through Redis", direct: "Direct", none: "No source" };
const MODE_COLOURS = { redis: "#0b7a83", direct: "#b86a0b", none: "#c0392b" };
const STRIP_SECONDS = 3600;
const SWITCHES_SHOWN = 6;

let modeSeen = null;

function showRoute(status, now) {
  const { mode } = status;
  const name = MODES[mode] ?? mode;
  const links = status.links ?? {};
  mark(document.documentElement, "mode", mode);
  write($("mode-text"), name);
  write($("health"), status.draining ? "draining" : status.status);
  mark($("health"), "status", status.draining ? "draining" : status.status);
  const seconds = status.since ? (now - Date.parse(status.since)) / 1000 : null;
  write($("mode-since"), seconds === null ? "" : `since ${clock(new Date(status.since))}, ${duration(seconds)}`);
  write($("mode-reason"), status.reason ?? (status.draining ? "Clients are being sent away; no new ones are taken." : ""));
  document.title = `${status.status === "ok" ? "" : `${status.status} · `}${mode} · notify-bridge`;
  showIcon(MODE_COLOURS[mode] ?? "#888888");
  showStations(status, links);
  showSwitches(status.switches ?? [], now);
  if (modeSeen !== null && modeSeen !== mode) announce(`Mode is now ${mode}: ${name}. ${status.reason ?? ""}`);
  modeSeen = mode;
}

function showStations(status, { postgres = {}, redis = {} }) {
  const source = postgres.state ?? "unknown";
  const log = redis.log === "live" ? "live" : (redis.state ?? redis.log ?? "unknown");
  station("postgres", source, source === "proven" ? roundTrip(postgres) : source);
  station("redis", log, log === "live" || log === "writable" ? roundTrip(redis) : log);
  station("direct", status.mode === "direct" ? "live" : "idle", "");
  station("bridge", status.mode === "none" ? "lost" : "live", `${rate(status.rates?.events_per_second)}/s`);
  station("clients", "live", count(status.clients));
  mark($("map"), "flows", String((status.rates?.events_per_second ?? 0) > 0));
  const way = { redis: "through the log in Redis", direct: "directly", none: "nowhere at present" }[status.mode];
  $("map").setAttribute(
    "aria-label",
    `Events go from PostgreSQL ${way} to ${count(status.clients)} clients. PostgreSQL is ${source}, Redis is ${log}.`,
  );
}

/** How long a probe took; "live" before the first. */
function roundTrip(link) {
  return link.round_trip_seconds ? milliseconds(link.round_trip_seconds * 1000) : "live";
}

function station(name, state, value) {
  const element = $(`station-${name}`);
  mark(element, "state", state);
  write(element.lastElementChild, value);
}

function showIcon(colour) {
  const svg = `<svg xmlns="${SVG}" viewBox="0 0 16 16"><circle cx="8" cy="8" r="5" fill="none" stroke="${colour}" stroke-width="4"/></svg>`;
  const href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  if ($("icon").getAttribute("href") !== href) $("icon").setAttribute("href", href);
}

function showSwitches(switches, now) {
  const spans = switches.map((change, i) => {
    const start = Date.parse(change.at);
    const end = i + 1 < switches.length ? Date.parse(switches[i + 1].at) : now;
    return { ...change, start, end: Math.max(end, start) };
  });
  showStrip(spans, now);
  const key = JSON.stringify(switches.slice(-SWITCHES_SHOWN));
  const list = $("switches");
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    const newest = spans.slice(-SWITCHES_SHOWN).reverse();
    list.replaceChildren(...newest.map((span, i) => switchRow(span, i > 0)));
  }
}

function switchRow({ start, end, at, mode, reason }, ended) {
  const lasted = ended ? `${((end - start) / 1000).toFixed(end - start < 10_000 ? 1 : 0)} s` : "now";
  const row = make(
    "li",
    { title: `${at} ${mode}${reason ? `: ${reason}` : ""}` },
    make("time", { dateTime: at, textContent: clock(new Date(start)) }),
    make("b", { textContent: mode }),
    make("span", { className: "reason", textContent: reason ?? "" }),
    make("span", { className: "lasted", textContent: ended && end - start >= 100_000 ? duration((end - start) / 1000) : lasted }),
  );
  row.dataset.mode = mode;
  return row;
}

/** The last hour, or less where there was less; short modes stay wide enough to be seen. */
function showStrip(spans, now) {
  const strip = $("strip");
  const begin = Math.max(spans.length ? spans[0].start : now, now - STRIP_SECONDS * 1000);
  const seen = spans.filter((span) => span.end >= begin);
  while (strip.children.length > seen.length) strip.lastElementChild.remove();
  while (strip.children.length < seen.length) strip.append(make("i"));
  seen.forEach((span, i) => {
    const part = strip.children[i];
    mark(part, "mode", span.mode);
    part.title = `${span.mode} from ${clock(new Date(span.start))}${span.reason ? `: ${span.reason}` : ""}`;
    part.style.flexGrow = String(Math.max(1, span.end - Math.max(span.start, begin)));
  });
  write($("strip-start"), seen.length ? clock(new Date(begin)) : "");
  const spoken = seen.slice(-SWITCHES_SHOWN).map((span) => `${span.mode} from ${clock(new Date(span.start))}`);
  strip.setAttribute("aria-label", `Modes over time: ${spoken.join(", ")}`);
}
