// Asks /status once a second while somebody looks, and shows what it says. Where nothing comes the page says so, keeps
// what it knew, dimmed, and goes on asking.

const POLL_MILLISECONDS = 1000;
const ANSWER_MILLISECONDS = 4000;
const LATE_SECONDS = 5; // rates are means of more than that

const RATES = [
  ["received", "received_per_second", "Notifications received from PostgreSQL"],
  ["appended", "appended_per_second", "Entries appended to the log in Redis"],
  ["events", "events_per_second", "Events that came out of the feed, each once"],
  ["deliveries", "deliveries_per_second", "Events handed to clients, one for each client"],
];
const POSTGRES_STATES = {
  proven: "hears",
  unproven: "open, not proven yet",
  suspect: "suspect: a probe is overdue",
  lost: "lost",
  unknown: "not tried yet",
  closed: "no session needed now",
};
const REDIS_STATES = {
  writable: "takes writes",
  refusing: "refuses writes",
  lost: "lost",
  unknown: "not tried yet",
  off: "off",
};

const LEGS = {
  received_to_delivered: "PostgreSQL to clients",
  received_to_appended: "PostgreSQL to Redis",
  log_to_delivered: "Redis to clients",
};

const charts = RATES.map(([label, , what]) => new Chart($("rates"), label, what));
const statusListeners = [];

let asking = null;
let timer = 0;
let awaySince = null;
let sampledAt = null;

class Refused extends Error {}

async function poll() {
  clearTimeout(timer);
  if (document.hidden || asking) return;
  asking = new AbortController();
  const limit = setTimeout(() => asking.abort(), ANSWER_MILLISECONDS);
  const started = performance.now();
  try {
    const response = await fetch("status", { signal: asking.signal, cache: "no-store" });
    if (!response.ok) throw new Refused(`The bridge answers with ${response.status}`);
    const status = await response.json();
    showStatus(status, serverTime(response));
  } catch (error) {
    showAway(error);
  } finally {
    clearTimeout(limit);
    asking = null;
    timer = setTimeout(poll, Math.max(100, POLL_MILLISECONDS - (performance.now() - started)));
  }
}

/** The bridge's clock, by whose times everything is dated; where both agree to the second, ours, which is finer. */
function serverTime(response) {
  const told = Date.parse(response.headers.get("date") ?? "");
  return Number.isNaN(told) || Math.abs(told - Date.now()) < 2000 ? Date.now() : told;
}

function showStatus(status, now) {
  if (awaySince !== null) announce("The bridge answers again.");
  awaySince = null;
  mark(document.documentElement, "reach", "here");
  write($("reach-text"), "live");
  write($("identity"), identity(status));
  showRoute(status, now);
  sample(status.rates ?? {});
  facts($("links"), linkFacts(status.links ?? {}));
  facts($("load"), loadFacts(status));
  showGaps(status.gaps ?? []);
  for (const listener of statusListeners) listener(status);
}

function showAway(error) {
  if (awaySince === null) {
    awaySince = new Date();
    announce("The bridge does not answer.");
    document.title = "away · notify-bridge";
    showIcon("#888888");
  }
  mark(document.documentElement, "reach", "away");
  const what = error instanceof Refused ? error.message : "No answer from the bridge";
  write($("reach-text"), `${what} since ${clock(awaySince)}. Asking again every second.`);
  sample({});
}

/** One second for every chart. Seconds that an answer was late by are like it; those in which nobody looked are empty. */
function sample(rates) {
  const unseen = sampledAt === null ? 0 : Math.round((performance.now() - sampledAt) / POLL_MILLISECONDS) - 1;
  sampledAt = performance.now();
  charts.forEach((chart, i) => {
    const value = rates[RATES[i][1]];
    const meanwhile = unseen <= LATE_SECONDS ? value : null;
    for (let second = 0; second < Math.min(unseen, CHART_SECONDS); second += 1) chart.add(meanwhile);
    chart.add(value);
  });
}

function identity(status) {
  return [
    `version ${status.version}`,
    status.uptime_seconds === undefined ? "" : `up ${duration(status.uptime_seconds)}`,
    status.embedded ? "embedded servers" : "",
    status.auth === "jwt" ? "tokens needed" : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

function linkFacts({ postgres = {}, redis = {} }) {
  const rows = [
    ["PostgreSQL", POSTGRES_STATES[postgres.state] ?? postgres.state ?? "–", postgres.state, [
      postgres.heard_seconds_ago === undefined ? "" : `heard ${ago(postgres.heard_seconds_ago)}`,
      postgres.round_trip_seconds ? `round trip ${roundTrip(postgres)}` : "",
      postgres.error ?? "",
    ]],
  ];
  if (redis.state !== undefined) {
    rows.push(["Redis", REDIS_STATES[redis.state] ?? redis.state, redis.state, [
      redis.state !== "writable" ? "" : redis.appending ? "this process appends" : "another process appends",
      redis.state === "writable" && redis.round_trip_seconds ? `round trip ${roundTrip(redis)}` : "",
      redis.backlog_entries ? `${count(redis.backlog_entries)} wait, ${bytes(redis.backlog_bytes)}` : "",
      redis.error ?? "",
    ]]);
  }
  if (redis.log !== undefined && redis.log !== "off") {
    rows.push(["Log", redis.log === "live" ? "feeds this process" : "away", redis.log, [
      redis.beat_heard_seconds_ago == null ? "" : `heartbeat ${ago(redis.beat_heard_seconds_ago)}`,
      redis.log_tail ? `tail ${shortId(redis.log_tail)}` : "",
    ]]);
  }
  return rows;
}

function loadFacts(status) {
  const { latency = {} } = status;
  const redis = status.links?.redis ?? {};
  const share = status.max_clients ? status.clients / status.max_clients : 0;
  const rows = [
    ["Clients", `${count(status.clients)}${status.max_clients ? ` of ${count(status.max_clients)}` : ""}`, share > 0.9 ? "suspect" : "", [
      status.buffered_bytes ? `${bytes(status.buffered_bytes)} wait for them to read` : "nothing waits for them to read",
      status.slow_disconnects ? `${count(status.slow_disconnects)} were too slow` : "",
    ]],
  ];
  if (status.latency !== undefined) {
    rows.push(["Latency", latency.samples ? `${milliseconds(latency.p50_ms)} median` : "no events yet", "", [
      latency.samples ? `99 % within ${milliseconds(latency.p99_ms)}` : "",
      LEGS[latency.leg] ?? "",
    ]]);
  }
  if (redis.backlog_entries !== undefined) {
    rows.push(["Backlog", `${count(redis.backlog_entries)} entries`, redis.backlog_entries > 1000 ? "suspect" : "", [bytes(redis.backlog_bytes)]]);
  }
  if (status.processes !== undefined) rows.push(processFacts(status.processes));
  rows.push(["Position", shortId(status.position), "", []]);
  return rows;
}

/** The processes of --workers: how many clients each has, and which of them is not well. */
function processFacts(processes) {
  const workers = processes.filter(({ role }) => role === "worker");
  const unwell = processes.filter(({ status }) => status !== "ok").map(({ name, status }) => `${name} is ${status}`);
  const restarts = processes.reduce((sum, each) => sum + each.restarts, 0);
  return ["Workers", count(workers.length), unwell.length ? "suspect" : "", [
    `${workers.map(({ clients }) => count(clients)).join(" + ")} clients`,
    ...unwell,
    restarts ? `${count(restarts)} restarts` : "",
  ]];
}

function ago(seconds) {
  return seconds < 10 ? `${seconds.toFixed(1)} s ago` : `${duration(seconds)} ago`;
}

/** Rows of a name, a value with a state, and what more there is to say; made once and then only rewritten. */
function facts(list, rows) {
  while (list.children.length > rows.length) list.lastElementChild.remove();
  while (list.children.length < rows.length) {
    list.append(make("div", {}, make("dt"), make("dd", {}, make("b"), make("span"))));
  }
  rows.forEach(([name, value, state, more], i) => {
    const [term, { children: [first, rest] }] = list.children[i].children;
    write(term, name);
    write(first, value);
    mark(list.children[i], "state", state || "plain");
    write(rest, more.filter(Boolean).join(" · "));
  });
}

function showGaps(gaps) {
  const list = $("gaps");
  const key = JSON.stringify(gaps);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const rows = gaps.slice(-5).reverse().map((gap) =>
    make(
      "li",
      { title: `after ${gap.after ?? "an unknown position"}, before ${gap.before ?? "an unknown position"}` },
      make("time", { dateTime: gap.at, textContent: clock(new Date(gap.at)) }),
      make("b", { textContent: gap.reason }),
      make("span", { textContent: `${shortId(gap.after)} to ${shortId(gap.before)}` }),
    ),
  );
  list.replaceChildren(...(rows.length ? rows : [make("li", { className: "empty", textContent: "None: nothing was lost." })]));
}

document.addEventListener("visibilitychange", poll);
