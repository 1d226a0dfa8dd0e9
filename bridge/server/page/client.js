// A client of notify-bridge for browsers, Node and others: one file without dependencies. Its types: client.d.ts.
//
//   import { connect } from "http://localhost:8000/client.js"; // or from a copy of this file
//
//   const stream = connect("http://localhost:8000", { channels: ["match_change"], where: { match_id: 7 } });
//   for await (const event of stream) {
//     if (event.type === "notification") show(event.channel, event.payload);
//     if (event.type === "gap" && !event.pending) reload(); // here something is missing, whatever the filter
//   }
//
// Or with callbacks, each called as soon as its message comes: connect(url, { onEvent, onGap, onFilled, … }).
//
// Whatever happens to connections, this is one stream. It connects again after a wait that grows and is never the same as
// that of others, or as long as the bridge asks for, and goes on after the last message: each event comes once, and where
// events are lost a gap says so. `subscribed` comes once; again only where there was no position to go on from.
// `stream.cursor` is where to go on after what was taken: keep it, and give it as `after` another time. A stream has one
// subscription; whoever wants to change it closes the stream and opens another one, after the cursor or from now on.
//
// A token is a string, or a function that gives one, also by a promise: it is called for every connection, so that an
// expired token costs nothing. What no waiting mends ends the stream with a BridgeError: a close with 1008, or with 4001
// where the token is a string, and a handshake refused with 400, 401, 403 or 404. The loop throws it, `stream.closed`
// rejects with it, and `onState` gets it. A WebSocket does not tell why it was refused: the same is then asked for at /sse
// in place of /ws. What may be true of that path alone ends nothing, and `onState` is told why: a 403 without a token, a
// 404 that is no bridge's own or of a path that was there. A URL without /ws has no such path, so it is tried for ever.
//
// In a loop, what is not taken yet waits in memory, up to `bufferCharacters` of JSON. Then the connection is closed, and
// made again when half of that is taken: who is slow loses nothing as long as the bridge's history reaches
// (BRIDGE_HISTORY_ENTRIES), and gets a gap where it does not. Leaving the loop closes the stream.
//
// Node before version 22 has no WebSocket: give the one of the package `ws` as the option `WebSocket`. Node's own cannot
// leave a peer that does not answer: after `close`, such a connection keeps the process until the network ends it. With
// `ws` that is two seconds.

const FIRST_WAIT_SECONDS = 0.5;
const LONGEST_WAIT_SECONDS = 15;
const LONGEST_TOLD_SECONDS = 60; // a bridge that asks to stay away is believed up to this
const TOLD_JITTER_SECONDS = 0.5;
const HEALTHY_SECONDS = 10; // after a connection that lasted so long, the waits are short again
const HANDSHAKE_SECONDS = 20;
const SILENCE_SECONDS = 25; // the bridge says something every 15 seconds; after so many it is asked,
const PATIENCE_SECONDS = 10; // and has so many to answer
const CLOSE_SECONDS = 2;
const TOKEN_SECONDS = 30;
const REFUSAL_SECONDS = 4;
const REFUSAL_CHARACTERS = 300;
const BUFFER_CHARACTERS = 4 * 1024 * 1024;

const SCHEMES = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" };
const FINAL_STATUSES = [400, 401, 403, 404];
const FINAL_CODES = { 1008: "the bridge refuses to go on", 4001: "the token has expired: give a new one" };
const TOKEN_EXPIRED = 4001;
const NO_SUCH_PATH = "there is nothing at this path"; // what a bridge says with 404
const NOT_ACCEPTED = "the connection was not accepted";
const PING = '{"type":"ping"}';

const CALLBACKS = new Map([
  ["subscribed", "onSubscribed"],
  ["notification", "onEvent"],
  ["gap", "onGap"],
  ["filled", "onFilled"],
  ["error", "onError"],
]);
const TAKERS = [...CALLBACKS.values(), "onMessage"];
const OPTIONS = ["channels", "where", "after", "token", "bufferCharacters", "WebSocket", "onState", ...TAKERS];

/** Which states follow which. */
const MOVES = {
  new: ["connecting", "closed"],
  connecting: ["listening", "waiting", "paused", "closed"],
  listening: ["connecting", "waiting", "paused", "closed"],
  waiting: ["connecting", "closed"],
  paused: ["connecting", "closed"],
  closed: [],
};

/** Why a stream has ended for good: `status` of the refused handshake, or `code` of the close, the other one is null. */
export class BridgeError extends Error {
  constructor(message, { status = null, code = null } = {}) {
    super(message);
    this.name = "BridgeError";
    this.status = status;
    this.code = code;
  }
}

/** A stream of what happens there, which begins to connect. Throws TypeError for what can never be connected to. */
export function connect(url, options = {}) {
  return new Stream(url, options);
}

class Stream {
  #options;
  #WebSocket;
  #url;
  #state = "new";
  #socket = null;
  #timer = 0;
  #probe = null;
  #heardAt = 0; // in seconds, as all times here
  #asked = false;
  #goodSince = null;
  #dueAt = null; // the end of a wait that may be shortened
  #failures = 0;
  #reconnects = 0;
  #tokenRefused = false;
  #resuming = false;
  #greeted = false;
  #cursor; // after all that was received
  #taken; // after all that was taken
  #queue = null; // only where there are no callbacks
  #waiting = []; // calls of `next` that nothing has come for
  #error = null;
  #settle;
  #hurry = (event) => this.#comeSooner(event);

  constructor(url, options) {
    const unknown = Object.keys(options).find((name) => !OPTIONS.includes(name));
    if (unknown !== undefined) throw new TypeError(`there is no option ${unknown}; there are ${OPTIONS.join(", ")}`);
    this.#options = options;
    this.#url = target(url, options);
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (typeof this.#WebSocket !== "function") {
      throw new TypeError("there is no WebSocket here: give the one of the package ws as the option WebSocket");
    }
    this.#cursor = this.#taken = this.#url.searchParams.get("after") || null;
    if (!TAKERS.some((name) => options[name])) this.#queue = new Queue(options.bufferCharacters ?? BUFFER_CHARACTERS);
    this.closed = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    if (this.#queue || options.onState) this.closed.catch(() => {}); // told there
    globalThis.addEventListener?.("online", this.#hurry);
    globalThis.document?.addEventListener("visibilitychange", this.#hurry);
    Promise.resolve().then(() => this.#state === "new" && this.#open());
  }

  get state() {
    return this.#state === "new" ? "connecting" : this.#state;
  }

  get cursor() {
    return this.#taken;
  }

  get reconnects() {
    return this.#reconnects;
  }

  close() {
    this.#queue?.clear();
    this.#error = null;
    if (this.#state !== "closed") this.#finish(null);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    if (!this.#queue) throw new TypeError("the messages of this stream go to callbacks: there is nothing to loop over");
    const first = this.#queue.shift();
    if (first) {
      this.#taken = first.cursor;
      if (this.#state === "paused" && this.#queue.isHalfEmpty) this.#open();
      return { value: first.event, done: false };
    }
    if (this.#error) {
      const error = this.#error;
      this.#error = null;
      throw error;
    }
    if (this.#state === "closed") return { value: undefined, done: true };
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  async return() {
    this.close();
    return { value: undefined, done: true };
  }

  // The connection: opened, watched, lost, opened again.

  async #open() {
    this.#dueAt = null;
    this.#resuming = this.#cursor !== null;
    this.#move("connecting", { resumes: this.#resuming });
    let { token } = this.#options;
    if (typeof token === "function") {
      try {
        token = await within(TOKEN_SECONDS, token);
      } catch (error) {
        if (this.#state === "connecting") this.#again(`there is no token: ${error?.message ?? error}`);
        return;
      }
    }
    if (this.#state === "connecting") this.#dial(token || null);
  }

  #dial(token) {
    const url = new URL(this.#url);
    if (this.#resuming) url.searchParams.set("after", this.#cursor);
    let socket;
    try {
      socket = new this.#WebSocket(url.href, token ? ["bridge.v1", `bearer.${token}`] : ["bridge.v1"]);
    } catch (error) {
      const bad = token && !/^[\w.~+-]+$/.test(token);
      const why = bad ? "this is no token: it has characters that tokens do not have" : `${error?.message ?? error}`;
      this.#finish(new BridgeError(why));
      return;
    }
    this.#socket = socket;
    this.#asked = false;
    this.#arm(HANDSHAKE_SECONDS, () => this.#again("the bridge does not answer"));
    let accepted = false;
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      accepted = true;
      this.#tokenRefused = false;
      this.#heardAt = now();
      this.#watch();
    };
    socket.onmessage = ({ data }) => socket === this.#socket && this.#hear(data);
    socket.onerror = () => socket === this.#socket && !accepted && this.#refused(token); // Node 20 stops at that
    socket.onclose = (event) => socket === this.#socket && (accepted ? this.#lost(event) : this.#refused(token));
  }

  #lost({ code, reason }) {
    const why = `closed with ${code}${reason ? ` ${reason}` : ""}`;
    const renewable = code === TOKEN_EXPIRED && typeof this.#options.token === "function";
    if (renewable && this.#wasHealthy) {
      this.#forget();
      this.#reconnects += 1;
      this.#open();
    } else if (code in FINAL_CODES && !renewable) {
      this.#finish(new BridgeError(`${FINAL_CODES[code]} (${why})`, { code }));
    } else {
      const told = /^retry=(\d+)$/.exec(reason);
      this.#again(why, told ? Number(told[1]) : null);
    }
  }

  async #refused(token) {
    this.#forget();
    this.#probe = new AbortController();
    const { status, why, retrySeconds } = await refusal(this.#url, token, this.#probe);
    if (this.#state !== "connecting") return;
    const renewable = status === 401 && typeof this.#options.token === "function" && !this.#tokenRefused;
    this.#tokenRefused = status === 401;
    const wasThere = status === 404 && this.#greeted;
    if (FINAL_STATUSES.includes(status) && !renewable && !wasThere) this.#finish(new BridgeError(why, { status }));
    else this.#again(why, retrySeconds);
  }

  /** Wait as long as was asked for, else longer each time, and never as long as everybody else. */
  #again(why, toldSeconds = null) {
    if (this.#wasHealthy) this.#failures = 0;
    this.#forget();
    const ceiling = Math.min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** this.#failures);
    const seconds =
      toldSeconds === null
        ? ceiling * (0.5 + Math.random() / 2)
        : Math.min(toldSeconds, LONGEST_TOLD_SECONDS) + Math.random() * TOLD_JITTER_SECONDS;
    this.#failures += 1;
    this.#reconnects += 1;
    this.#wait(seconds);
    if (toldSeconds === null) this.#dueAt = now() + seconds;
    this.#move("waiting", { why, waitSeconds: seconds });
  }

  #wait(seconds) {
    this.#arm(seconds, () => this.#open());
  }

  /** The machine is online again, or somebody looks at the page: a good time to try, or to see whether it still works. */
  #comeSooner({ type }) {
    if (type === "visibilitychange" && document.hidden) return;
    const seconds = Math.random() * FIRST_WAIT_SECONDS;
    if (this.#dueAt !== null && now() + seconds < this.#dueAt) {
      this.#dueAt = now() + seconds;
      this.#wait(seconds);
    } else if (this.#socket?.readyState === 1 && !this.#asked) {
      this.#ask();
    }
  }

  /** A connection that is silent is asked, and given up where it does not answer. */
  #watch() {
    const left = this.#heardAt + SILENCE_SECONDS - now();
    if (left > 0) this.#arm(left, () => this.#watch());
    else this.#ask();
  }

  #ask() {
    this.#asked = true;
    this.#socket.send(PING);
    this.#arm(PATIENCE_SECONDS, () => (this.#asked ? this.#again("the bridge has gone silent") : this.#watch()));
  }

  get #wasHealthy() {
    return this.#goodSince !== null && now() - this.#goodSince > HEALTHY_SECONDS;
  }

  #forget() {
    clearTimeout(this.#timer);
    this.#probe?.abort();
    this.#goodSince = null;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
    if (socket?.terminate) setTimeout(() => socket.terminate(), CLOSE_SECONDS * 1000).unref?.();
  }

  #arm(seconds, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, seconds * 1000);
  }

  #finish(error) {
    this.#forget();
    globalThis.removeEventListener?.("online", this.#hurry);
    globalThis.document?.removeEventListener("visibilitychange", this.#hurry);
    const [first, ...others] = this.#waiting.splice(0);
    this.#error = first ? null : error;
    this.#move("closed", { error });
    if (error) this.#settle.reject(error);
    else this.#settle.resolve();
    if (error) first?.reject(error);
    else first?.resolve({ value: undefined, done: true });
    for (const { resolve } of others) resolve({ value: undefined, done: true });
  }

  #move(state, more = {}) {
    if (!MOVES[this.#state].includes(state)) throw new Error(`there is no way from ${this.#state} to ${state}`);
    this.#state = state;
    this.#tell("onState", { state, ...more });
  }

  // The messages: received, kept, taken.

  #hear(raw) {
    const socket = this.#socket;
    let message;
    try {
      message = JSON.parse(raw);
      message.raw = raw;
    } catch {
      this.#again("what it says is no message");
      return;
    }
    this.#heardAt = now();
    this.#asked = false;
    this.#cursor = cursorOf(message) ?? this.#cursor;
    const { type } = message;
    if (type === "subscribed" && this.#state === "connecting") {
      this.#goodSince = now();
      this.#move("listening");
    }
    if (!this.#queue) this.#taken = this.#cursor;
    if (socket === this.#socket) this.#tell("onMessage", message);
    if (socket !== this.#socket) return; // a callback has closed the stream
    const again = type === "subscribed" && this.#resuming && this.#greeted;
    this.#greeted ||= type === "subscribed";
    const passes = CALLBACKS.has(type) && !again;
    if (!this.#queue) passes && this.#tell(CALLBACKS.get(type), message);
    else if (passes) this.#give(message);
    else if (!this.#queue.advance(this.#cursor)) this.#taken = this.#cursor;
  }

  #give(event) {
    const next = this.#waiting.shift();
    if (next) {
      this.#taken = this.#cursor;
      next.resolve({ value: event, done: false });
      return;
    }
    this.#queue.push(event, this.#cursor);
    if (this.#queue.isFull) {
      this.#failures = 0;
      this.#forget();
      this.#move("paused");
    }
  }

  /** What a callback throws is an error of the program, as in any handler of events, and none of the stream. */
  #tell(name, value) {
    try {
      this.#options[name]?.(value);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

/** What has been received and not taken. Bounded by whoever puts into it: at most one message comes after it is full. */
class Queue {
  #items = [];
  #first = 0;
  #held = 0;
  #bound;

  constructor(bound) {
    if (!(bound > 0)) throw new TypeError("bufferCharacters is a number greater than 0");
    this.#bound = bound;
  }

  get isFull() {
    return this.#held >= this.#bound;
  }

  get isHalfEmpty() {
    return this.#held <= this.#bound / 2;
  }

  push(event, cursor) {
    this.#items.push({ event, cursor });
    this.#held += event.raw.length;
  }

  /** What was pushed last is followed by this position; false where there is nothing. */
  advance(cursor) {
    const last = this.#items.at(-1);
    if (last) last.cursor = cursor;
    return last !== undefined;
  }

  shift() {
    const item = this.#items[this.#first];
    if (!item) return undefined;
    this.#items[this.#first] = undefined;
    this.#first += 1;
    this.#held -= item.event.raw.length;
    if (this.#first * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }

  clear() {
    this.#items = [];
    this.#first = this.#held = 0;
  }
}

/** The URL to connect to; /ws where it has no path. */
function target(url, { channels = [], where = {}, after = null }) {
  const place = new URL(url, globalThis.location?.href);
  if (!(place.protocol in SCHEMES)) throw new TypeError(`${place.protocol} is no scheme of a bridge; give an http: URL`);
  place.protocol = SCHEMES[place.protocol];
  place.hash = "";
  if (place.pathname === "/") place.pathname = "/ws";
  const conditions = Symbol.iterator in where ? where : Object.entries(where);
  for (const channel of [channels].flat()) place.searchParams.append("channel", channel);
  for (const [name, value] of conditions) place.searchParams.append(`where.${name}`, value);
  if (after) place.searchParams.set("after", after);
  return place;
}

/** Where to go on after this message. */
function cursorOf({ type, cursor, position, id }) {
  const at = cursor ?? (type === "subscribed" ? position : type === "notification" ? id : null);
  return typeof at === "string" ? at : null;
}

/** Why a WebSocket was refused, as far as the same request at /sse tells; `limit` ends that. The token is in no URL. */
async function refusal(socketUrl, token, limit) {
  const url = new URL(socketUrl);
  url.protocol = url.protocol.replace("ws", "http");
  url.pathname = url.pathname.replace(/(.*)\/ws(?=\/|$)/, "$1/sse"); // the last: others are a prefix
  if (url.pathname === socketUrl.pathname) return { status: null, why: NOT_ACCEPTED, retrySeconds: null };
  url.searchParams.delete("after");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const timer = setTimeout(() => limit.abort(), REFUSAL_SECONDS * 1000);
  try {
    const response = await fetch(url, { headers, signal: limit.signal, cache: "no-store" });
    const { status } = response;
    if (response.ok) return { status, ...(await admission(response, token)) };
    const text = (await response.text()).trim().slice(0, REFUSAL_CHARACTERS);
    const retrySeconds = Number(response.headers.get("retry-after")) || null;
    const why = `refused with ${status}: ${text}`;
    const believed = status === 404 ? text === NO_SUCH_PATH : status !== 403 || token;
    if (believed) return { status, why, retrySeconds };
    return { status: null, why: `${NOT_ACCEPTED}, and ${url.pathname} is ${why}`, retrySeconds };
  } catch {
    const { location } = globalThis;
    const elsewhere = location !== undefined && location.origin !== url.origin;
    const why = `the bridge cannot be reached${elsewhere ? ", or does not let pages of this origin in" : ""}`;
    return { status: null, why, retrySeconds: null };
  } finally {
    clearTimeout(timer);
  }
}

/** What it means that a stream of events was given: one that ends at once says when to come back, there is no place. */
async function admission({ body }, token) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let ended = false;
  try {
    while (text.length < 64 && !ended) {
      const { value, done } = await reader.read();
      ended = done;
      text += decoder.decode(value);
    }
  } catch {} // nothing more has come in time
  const told = /^retry: *(\d+)$/m.exec(text);
  const hint = token && told && !ended ? ": a bridge without authentication takes no token; leave it out there" : "";
  return { why: NOT_ACCEPTED + hint, retrySeconds: (ended && told && Number(told[1]) / 1000) || null };
}

/** What the function gives, if it does so in time. */
async function within(seconds, give) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`none within ${seconds} seconds`)), seconds * 1000);
  });
  try {
    return await Promise.race([give(), late]);
  } finally {
    clearTimeout(timer);
  }
}

function now() {
  return performance.now() / 1000;
}
