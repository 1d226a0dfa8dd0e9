// A world for the client in which time and chance belong to the test, and sockets lead nowhere.

const settleTurn = setImmediate;

export const SUBSCRIBED = { type: "subscribed", channels: ["a"], where: {}, sub: null, position: "5-1" };

export function notification(number, more = {}) {
  return { type: "notification", id: `5-${number}`, channel: "a", payload: { n: number }, ...more };
}

/** Lets everything happen that needs no time. */
export function settle() {
  return new Promise((resolve) => settleTurn(resolve));
}

export class World {
  constructor() {
    this.seconds = 1000;
    this.chance = 0.5;
    this.sockets = [];
    this.requests = [];
    this.answers = []; // to come, each a Response, or an error
    this.listeners = new Map();
    this.timers = new Map();
    this.lastTimer = 0;
    const world = this;
    this.WebSocket = class {
      constructor(url, protocols) {
        if (protocols.some((name) => !/^[\w.!#$%&'*+^`|~-]+$/.test(name))) throw new SyntaxError("no subprotocol");
        Object.assign(this, { url: new URL(url), protocols, readyState: 0, sent: [], closedWith: null });
        world.sockets.push(this);
      }
      open() {
        this.readyState = 1;
        this.onopen({});
      }
      welcome(message = SUBSCRIBED) {
        this.open();
        this.say(message);
      }
      say(...messages) {
        for (const one of messages) this.onmessage({ data: typeof one === "string" ? one : JSON.stringify(one) });
      }
      end(code, reason = "") {
        this.readyState = 3;
        this.onclose({ code, reason });
      }
      send(text) {
        this.sent.push(text);
      }
      close(code) {
        this.closedWith ??= code;
      }
    };
    globalThis.setTimeout = (action, milliseconds) => {
      this.timers.set((this.lastTimer += 1), { action, at: this.seconds + milliseconds / 1000 });
      return this.lastTimer;
    };
    globalThis.clearTimeout = (timer) => this.timers.delete(timer);
    Object.defineProperty(performance, "now", { value: () => this.seconds * 1000, configurable: true });
    Math.random = () => this.chance;
    globalThis.fetch = async (url, options) => {
      this.requests.push({ url: new URL(url), ...options });
      const answer = this.answers.shift() ?? new TypeError("fetch failed");
      if (answer instanceof Error) throw answer;
      return answer;
    };
    globalThis.addEventListener = (type, listener) => this.listeners.set(type, listener);
    globalThis.removeEventListener = (type, listener) => {
      if (this.listeners.get(type) === listener) this.listeners.delete(type);
    };
    globalThis.document = { addEventListener, removeEventListener, hidden: false };
  }

  get last() {
    return this.sockets.at(-1);
  }

  /** What the newest socket wants to go on after. */
  get after() {
    return this.last.url.searchParams.get("after");
  }

  happens(type) {
    this.listeners.get(type)?.({ type });
  }

  async pass(seconds) {
    const until = this.seconds + seconds;
    await settle();
    for (;;) {
      const [timer, due] = [...this.timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!due || due.at > until) break;
      this.seconds = due.at;
      this.timers.delete(timer);
      due.action();
      await settle();
    }
    this.seconds = until;
  }
}
