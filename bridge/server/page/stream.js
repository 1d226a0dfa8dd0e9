// One subscription: a WebSocket that is opened again where it left off, by the cursor of the last message.

const FIRST_WAIT_SECONDS = 0.5;
const LONGEST_WAIT_SECONDS = 15;
const SILENCE_SECONDS = 25;
const PATIENCE_SECONDS = 10;
const HEALTH_MILLISECONDS = 10_000; // a connection that lasted so long begins its waits anew
const FINAL_CODES = { 1008: "the bridge refuses to go on", 4001: "the token has expired: give a new one" };
const REFUSED_FOR_GOOD = [400, 401, 403, 404, 426];

class Stream {
  /** `hear(raw, message)` for every message, `note(kind, text)` for what the page does, `changed(state, text)`. */
  constructor({ channels, where, token }, { hear, note, changed }) {
    this.query = [...channels.map((name) => ["channel", name]), ...where.map(([name, value]) => [`where.${name}`, value])];
    this.token = token;
    this.hear = hear;
    this.note = note;
    this.changed = changed;
    this.cursor = null;
    this.failures = 0;
    this.goodSince = null;
    this.reconnects = 0;
    this.socket = null;
    this.timer = 0;
    this.ended = false;
  }

  url(path, extra = []) {
    const url = new URL(path, location.href);
    url.hash = "";
    url.search = new URLSearchParams([...this.query, ...extra]).toString();
    return url;
  }

  open() {
    if (this.ended) return;
    this.changed("connecting", this.cursor ? "Connecting again" : "Connecting");
    const url = this.url("ws", this.cursor ? [["after", this.cursor]] : []);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    let socket;
    try {
      socket = new WebSocket(url, this.token ? ["bridge.v1", `bearer.${this.token}`] : ["bridge.v1"]);
    } catch {
      this.finish("this is no token: it has characters that tokens do not have");
      return;
    }
    this.socket = socket;
    this.heardAt = performance.now();
    this.asked = false;
    let welcome = false;
    socket.onopen = () => (welcome = true);
    socket.onmessage = ({ data }) => socket === this.socket && this.take(data);
    socket.onclose = (event) => socket === this.socket && (welcome ? this.closed(event) : this.refused());
  }

  take(raw) {
    this.heardAt = performance.now();
    this.asked = false;
    const message = JSON.parse(raw);
    this.cursor = message.cursor ?? (message.type === "subscribed" ? message.position : message.id) ?? this.cursor;
    if (message.type === "subscribed") {
      this.goodSince ??= performance.now();
      this.changed("listening", "Listening");
    }
    this.hear(raw, message);
  }

  closed({ code, reason }) {
    this.socket = null;
    const why = `closed with ${code}${reason ? ` ${reason}` : ""}`;
    if (code in FINAL_CODES) {
      this.finish(`${FINAL_CODES[code]} (${why})`);
      return;
    }
    const told = /^retry=(\d+)$/.exec(reason);
    this.again(why, told ? Number(told[1]) : null);
  }

  /** A browser does not tell why a handshake was refused; the same request for a stream does. */
  async refused() {
    this.socket = null;
    let seconds = null;
    let why = "the bridge cannot be reached";
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), ANSWER_MILLISECONDS);
    try {
      const response = await fetch(this.url("sse"), { headers, signal: limit.signal, cache: "no-store" });
      why = response.ok ? "the connection was not accepted" : `refused with ${response.status}: ${(await response.text()).trim()}`;
      if (this.ended) return;
      if (REFUSED_FOR_GOOD.includes(response.status)) {
        this.finish(why);
        return;
      }
      seconds = Number(response.headers.get("retry-after")) || null;
    } catch {
      // not there: try again
    } finally {
      clearTimeout(timer);
      limit.abort();
    }
    this.again(why, seconds);
  }

  /** Wait as long as was asked for, else longer each time, and never as long as everybody else. */
  again(why, toldSeconds) {
    if (this.ended) return;
    if (this.goodSince !== null && performance.now() - this.goodSince > HEALTH_MILLISECONDS) this.failures = 0;
    this.goodSince = null;
    const ceiling = Math.min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** Math.min(this.failures, 10));
    const seconds = toldSeconds === null ? ceiling * (0.5 + Math.random() / 2) : toldSeconds + Math.random() * 0.5;
    this.failures += 1;
    this.reconnects += 1;
    this.note("reconnect", `${why}; trying again in ${seconds.toFixed(1)} s${this.cursor ? ", from where it was" : ""}`);
    this.changed("waiting", `Not connected: ${why}`);
    this.timer = setTimeout(() => this.open(), seconds * 1000);
  }

  /** Once a second: a connection that is silent is asked, and given up where it does not answer. */
  tick() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    const seconds = (performance.now() - this.heardAt) / 1000;
    if (seconds > SILENCE_SECONDS && !this.asked) {
      this.asked = true;
      this.socket.send('{"type":"ping"}');
    } else if (seconds > SILENCE_SECONDS + PATIENCE_SECONDS) {
      const { socket } = this;
      this.socket = null;
      socket.close();
      this.again("the bridge has gone silent", null);
    }
  }

  finish(why) {
    this.note("stopped", why);
    this.stop(why);
  }

  stop(why = "") {
    this.ended = true;
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null;
    socket?.close(1000);
    this.changed("stopped", why ? `Not listening: ${why}` : "Not listening");
  }
}
