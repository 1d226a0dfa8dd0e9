// The client on sockets, a clock and a chance of the test. `node --test` runs it; CLIENT is the file to be tested.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { beforeEach, describe, test } from "node:test";

import { notification, settle, SUBSCRIBED, World } from "./world.mjs";

// By its text: older Nodes take a file of this name for no module.
const MODULE = `data:text/javascript;base64,${readFileSync(process.env.CLIENT).toString("base64")}`;
const { BridgeError, connect } = await import(MODULE);

const RETRY = (milliseconds) => new Response(`retry: ${milliseconds}\n\n`);
const gap = (more = {}) => ({ type: "gap", after: "5-2", before: "5-9", reason: "failover", ...more });

let world;
let states;

beforeEach(() => {
  world = new World();
  states = [];
});

/** A stream whose socket has been made; its states are noted. */
async function begin(options = {}, url = "http://bridge") {
  const stream = connect(url, { WebSocket: world.WebSocket, onState: (change) => states.push(change), ...options });
  await settle();
  return stream;
}

/** One that hears by callbacks, and is told `subscribed`. */
async function listening(options = {}) {
  const heard = [];
  const hear = (event) => heard.push(event);
  const stream = await begin({ onSubscribed: hear, onEvent: hear, onGap: hear, onFilled: hear, onError: hear, ...options });
  world.last.welcome();
  return { stream, heard };
}

function numbers(events) {
  return events.filter(({ type }) => type === "notification").map(({ payload }) => payload.n);
}

/** What a call of `next` gives, or that it waits. */
async function taken(stream) {
  const waits = {};
  const given = await Promise.race([stream.next(), settle().then(settle).then(() => waits)]);
  return given === waits ? "waits" : given.done ? "done" : given.value;
}

describe("what is asked for", () => {
  test("in the URL: channels, conditions, a position; the token beside it", async () => {
    await begin({
      channels: ["a", "b c"],
      where: { match_id: 7, live: true, name: "ä&b", none: null, big: 12345678901234567890n },
      after: "5-1~x",
      token: "aa.bb.cc",
    });
    const { url, protocols } = world.last;
    assert.equal(url.origin + url.pathname, "ws://bridge/ws");
    assert.deepEqual([...url.searchParams], [
      ["channel", "a"],
      ["channel", "b c"],
      ["where.match_id", "7"],
      ["where.live", "true"],
      ["where.name", "ä&b"],
      ["where.none", "null"],
      ["where.big", "12345678901234567890"],
      ["after", "5-1~x"],
    ]);
    assert.deepEqual(protocols, ["bridge.v1", "bearer.aa.bb.cc"]);
  });

  for (const [given, expected] of [
    ["http://bridge", "ws://bridge/ws"],
    ["https://bridge/", "wss://bridge/ws"],
    ["ws://bridge:8000/ws/match/7/stats", "ws://bridge:8000/ws/match/7/stats"],
    ["wss://bridge/below/ws?channel=a#there", "wss://bridge/below/ws?channel=a"],
    [new URL("http://bridge/?after=5-3"), "ws://bridge/ws?after=5-3"],
  ]) {
    test(`${given} is ${expected}`, async () => {
      await begin({}, given);
      assert.equal(world.last.url.href, expected);
      assert.deepEqual(world.last.protocols, ["bridge.v1"]);
    });
  }

  test("one channel, conditions in pairs, and nothing at all", async () => {
    await begin({ channels: "a", where: new Map([["x", 1]]), after: null, token: "" });
    assert.equal(world.last.url.search, "?channel=a&where.x=1");
    await begin({ where: [["x", 1], ["x", 2]], after: "" });
    assert.equal(world.last.url.search, "?where.x=1&where.x=2");
  });

  test("what can never be connected with is refused at once", () => {
    const { WebSocket } = world;
    assert.throws(() => connect("ftp://bridge", { WebSocket }), /ftp: is no scheme of a bridge/);
    assert.throws(() => connect("bridge", { WebSocket }), TypeError);
    assert.throws(() => connect("http://bridge", { WebSocket, chanels: [] }), /no option chanels; there are channels, /);
    assert.throws(() => connect("http://bridge", { WebSocket, bufferCharacters: 0 }), /bufferCharacters/);
    assert.throws(() => connect("http://bridge", { WebSocket: 7 }), /there is no WebSocket here/);
    assert.equal(world.listeners.size, 0);
  });
});

describe("one stream over many connections", () => {
  for (const [messages, after] of [
    [[], "5-1"],
    [[notification(2), notification(3)], "5-3"],
    [[notification(2), notification(1, { late: true, cursor: "c1" })], "c1"],
    [[notification(2), notification(9, { id: null })], "5-2"],
    [[notification(2), notification(9, { id: null, cursor: "c2" })], "c2"],
    [[notification(2), gap({ cursor: "c3" })], "c3"],
    [[notification(2), { type: "filled", after: "5-2", before: "5-3", cursor: "c4" }], "c4"],
    [[notification(2), { type: "position", cursor: "c5" }], "c5"],
    [[notification(2), { type: "pong", cursor: null }], "5-2"],
    [[notification(2), { type: "position", cursor: 7 }], "5-2"],
    [[notification(2), { type: "error", code: "bad_message", message: "what?" }], "5-2"],
    [[notification(2), { type: "toString", id: "no", position: "no" }], "5-2"],
  ]) {
    test(`it goes on after ${after}, the last of ${JSON.stringify(messages)}`, async () => {
      const { stream } = await listening();
      world.last.say(...messages);
      assert.equal(stream.cursor, after);
      world.last.end(1006);
      await world.pass(1);
      assert.equal(world.sockets.length, 2);
      assert.equal(world.after, after);
    });
  }

  test("`subscribed` comes once, and nothing that an old socket says", async () => {
    const { heard } = await listening();
    const old = world.last;
    old.say(notification(2));
    old.end(1006);
    await world.pass(1);
    old.say(notification(2));
    world.last.welcome({ ...SUBSCRIBED, position: "5-2" });
    world.last.say(notification(3));
    assert.deepEqual(heard.map(({ type }) => type), ["subscribed", "notification", "notification"]);
    assert.deepEqual(numbers(heard), [2, 3]);
  });

  test("`subscribed` comes again where there was no position to go on from", async () => {
    const heard = [];
    await begin({ onSubscribed: (event) => heard.push(event.position) });
    world.last.welcome({ ...SUBSCRIBED, position: null });
    world.last.end(1006);
    await world.pass(1);
    assert.equal(world.after, null);
    world.last.welcome();
    assert.deepEqual(heard, [null, "5-1"]);
  });

  test("`subscribed` comes where it goes on from another time", async () => {
    const { stream, heard } = await listening({ after: "5-1" });
    assert.equal(world.after, "5-1");
    assert.deepEqual(heard.map(({ type }) => type), ["subscribed"]);
    assert.equal(stream.cursor, "5-1");
    world.last.end(1006);
    await world.pass(1);
    world.last.welcome();
    assert.equal(heard.length, 1);
  });

  test("it waits longer each time, never as long as others, and begins anew after a good connection", async () => {
    const { stream } = await listening();
    for (const ceiling of [0.5, 1, 2, 4, 8, 15, 15, 15]) {
      for (const [chance, share] of [[0, 0.5], [0.999, 1]]) {
        world.chance = chance;
        const before = world.sockets.length;
        if (chance) {
          world.last.end(1006);
          const { waitSeconds } = states.at(-1);
          assert.ok(Math.abs(waitSeconds / ceiling - share) < 0.01, `${waitSeconds} of ${ceiling}`);
          await world.pass(waitSeconds - 0.01);
          assert.equal(world.sockets.length, before);
          await world.pass(0.02);
          assert.equal(world.sockets.length, before + 1);
          world.last.welcome();
        }
      }
    }
    assert.equal(stream.reconnects, 8);
    await world.pass(11);
    world.chance = 0;
    world.last.end(4008);
    assert.equal(states.at(-1).waitSeconds, 0.25);
    assert.equal(states.at(-1).why, "closed with 4008");
  });

  for (const [code, reason, from, to] of [[1001, "retry=7", 7, 7.5], [4013, "retry=2", 2, 2.5], [1001, "retry=86400", 60, 60.5]]) {
    test(`after ${code} ${reason} it stays away between ${from} and ${to} seconds`, async () => {
      for (const chance of [0, 0.999]) {
        world.chance = chance;
        await listening();
        world.last.end(code, reason);
        assert.ok(Math.abs(states.at(-1).waitSeconds - (chance ? to : from)) < 0.01);
      }
    });
  }

  test("a silent connection is asked, and given up where it does not answer", async () => {
    await listening();
    const [socket] = world.sockets;
    await world.pass(24);
    assert.deepEqual(socket.sent, []);
    await world.pass(2);
    assert.deepEqual(socket.sent, ['{"type":"ping"}']);
    socket.say({ type: "pong", cursor: "c9" });
    await world.pass(24);
    assert.equal(socket.sent.length, 1);
    socket.say({ type: "position", cursor: "c10" });
    await world.pass(34);
    assert.deepEqual([socket.sent.length, socket.closedWith], [2, null]);
    await world.pass(2);
    assert.equal(socket.closedWith, 1000);
    assert.equal(world.after, "c10");
    assert.equal(states.find(({ why }) => why)?.why, "the bridge has gone silent");
  });

  test("a peer that does not answer a close is left, where the WebSocket can do so", async () => {
    const ended = [];
    world.WebSocket.prototype.terminate = function () {
      ended.push(this);
    };
    const { stream } = await listening();
    const [silent] = world.sockets;
    await world.pass(36.9);
    assert.deepEqual([silent.closedWith, ended], [1000, []], "first its close frame is to go out");
    await world.pass(1);
    assert.deepEqual(ended, [silent]);
    stream.close();
    await world.pass(3);
    assert.deepEqual(ended, world.sockets);
    assert.equal(world.timers.size, 0);
  });

  test("a handshake that is not answered, and one that is refused in silence, are tried again", async () => {
    await begin();
    await world.pass(21);
    assert.equal(world.sockets[0].closedWith, 1000);
    assert.equal(world.sockets.length, 2);
    world.last.end(1006);
    await world.pass(2);
    assert.equal(world.sockets.length, 3);
    assert.deepEqual(states.filter(({ why }) => why).map(({ why }) => why), [
      "the bridge does not answer",
      "the bridge cannot be reached",
    ]);
  });

  for (const garbage of ["{", "7", "null", '"text"']) {
    test(`what is no message ends the connection: ${garbage}`, async () => {
      const { heard } = await listening();
      world.last.say(garbage);
      assert.equal(world.last.closedWith, 1000);
      await world.pass(1);
      assert.equal(world.after, "5-1");
      assert.equal(heard.length, 1);
    });
  }

  test("a machine that is online again, or looked at, tries sooner, but not sooner than was asked for", async () => {
    await listening();
    for (let failure = 0; failure < 6; failure += 1) {
      world.last.end(1006);
      await world.pass(failure < 5 ? 15 : 0);
      if (failure < 5) world.last.welcome();
    }
    const before = world.sockets.length;
    document.hidden = true;
    world.happens("visibilitychange");
    await world.pass(1);
    assert.equal(world.sockets.length, before);
    world.happens("online");
    await world.pass(0.3);
    assert.equal(world.sockets.length, before + 1);
    world.last.welcome();
    world.happens("online");
    world.happens("online");
    assert.deepEqual(world.last.sent, ['{"type":"ping"}']);
    world.last.say({ type: "pong", cursor: null });
    world.last.end(1001, "retry=5");
    document.hidden = false;
    world.happens("visibilitychange");
    await world.pass(4.9);
    assert.equal(world.sockets.length, before + 1);
  });

  test("a new connection is asked anew", async () => {
    await listening();
    await world.pass(36);
    world.last.open();
    world.happens("online");
    assert.deepEqual(world.sockets.map(({ sent }) => sent.length), [1, 1]);
  });

  test("nobody makes a short wait longer", async () => {
    await listening();
    world.last.end(1006);
    await world.pass(states.at(-1).waitSeconds - 0.1);
    world.happens("online");
    await world.pass(0.11);
    assert.equal(world.sockets.length, 2);
  });

  test("a connection that says `subscribed` again is none the worse", async () => {
    const { stream } = await listening();
    world.last.say(SUBSCRIBED, notification(2));
    assert.deepEqual([stream.state, stream.cursor], ["listening", "5-2"]);
  });
});

describe("ends that are final", () => {
  for (const [code, why] of [[1008, /refuses to go on \(closed with 1008 because\)/], [4001, /give a new one/]]) {
    test(`a close with ${code}`, async () => {
      const { stream } = await listening({ token: "aa.bb.cc" });
      world.last.end(code, "because");
      const { state, error } = states.at(-1);
      assert.equal(state, "closed");
      assert.ok(error instanceof BridgeError);
      assert.match(error.message, why);
      assert.deepEqual([error.code, error.status, stream.state], [code, null, "closed"]);
      await assert.rejects(stream.closed, error);
      await world.pass(100);
      assert.equal(world.sockets.length, 1);
      assert.equal(world.listeners.size, 0);
    });
  }

  for (const [status, why] of [[400, "this is why"], [401, "this is why"], [403, "this is why"], [404, "there is nothing at this path"]]) {
    test(`a handshake that is refused with ${status}`, async () => {
      const stream = await begin({ channels: "a", after: "5-1", token: "aa.bb.cc" }, "https://bridge/below/ws/match/7/stats");
      world.answers.push(new Response(`${why}\n`, { status }));
      world.last.end(1006);
      await assert.rejects(stream.closed, { name: "BridgeError", status, code: null, message: `refused with ${status}: ${why}` });
      const [{ url, headers }] = world.requests;
      assert.equal(url.href, "https://bridge/below/sse/match/7/stats?channel=a");
      assert.deepEqual(headers, { Authorization: "Bearer aa.bb.cc" });
      await world.pass(100);
      assert.equal(world.sockets.length, 1);
    });
  }

  for (const [path, asked] of [
    ["/", "/sse"],
    ["/ws/a", "/sse/a"],
    ["/ws/ws", "/ws/sse"],
    ["/ws/ws/match/7/stats", "/ws/sse/match/7/stats"],
    ["/wss/ws/", "/wss/sse/"],
  ]) {
    test(`at ${path} it is ${asked} that tells why`, async () => {
      await begin({}, `http://bridge${path}`);
      world.last.end(1006);
      await settle();
      assert.deepEqual(world.requests.map(({ url }) => url.pathname), [asked]);
    });
  }

  test("a loop gets what came before, then the error, once, and is done", async () => {
    const stream = await begin();
    world.last.welcome();
    world.last.say(notification(2));
    world.last.end(1008);
    assert.deepEqual([(await taken(stream)).type, (await taken(stream)).type], ["subscribed", "notification"]);
    await assert.rejects(stream.next(), BridgeError);
    assert.equal(await taken(stream), "done");
  });

  test("a loop that waits gets the error", async () => {
    const stream = await begin();
    world.last.welcome();
    await stream.next();
    const waiting = [stream.next(), stream.next()];
    world.last.end(1008);
    await assert.rejects(waiting[0], BridgeError);
    assert.deepEqual(await waiting[1], { value: undefined, done: true });
    assert.equal(await taken(stream), "done");
  });

  for (const way of ["close", "return"]) {
    test(`${way} after the end forgets what was not taken, and the error`, async () => {
      const stream = await begin();
      world.last.welcome();
      world.last.say(notification(2));
      world.last.end(1008);
      await stream[way]();
      assert.equal(await taken(stream), "done");
      assert.deepEqual(states.map(({ state }) => state), ["connecting", "listening", "closed"]);
      await assert.rejects(stream.closed, { code: 1008 });
    });
  }

  test("what is no token, and what a WebSocket does not take", async () => {
    let stream = await begin({ token: "no token" });
    await assert.rejects(stream.closed, /this is no token/);
    const Insecure = class {
      constructor() {
        throw new Error("an insecure connection");
      }
    };
    stream = await begin({ WebSocket: Insecure });
    await assert.rejects(stream.closed, /an insecure connection/);
  });
});

describe("what is refused for now", () => {
  for (const [name, answer, why, waitSeconds] of [
    ["full or draining", () => RETRY(3000), "the connection was not accepted", 3],
    ["too many, says a proxy", () => new Response("busy", { status: 429, headers: { "Retry-After": "9" } }), "refused with 429: busy", 9],
    ["a proxy without a bridge", () => new Response("<html>", { status: 502 }), "refused with 502: <html>", 0.25],
    ["accepted by now", () => new Response(`retry: 3000\n\n${"data: x\n\n".repeat(99)}`), "the connection was not accepted", 0.25],
  ]) {
    test(name, async () => {
      world.chance = 0;
      await begin();
      world.answers.push(answer());
      world.last.end(1006);
      await world.pass(0);
      assert.deepEqual(states.at(-1), { state: "waiting", why, waitSeconds });
      assert.ok(world.requests[0].signal.aborted);
      assert.equal(world.requests[0].cache, "no-store");
    });
  }

  for (const [name, status, text] of [
    ["the rule for hosts, which is none for WebSockets", 403, "this host is not allowed without authentication"],
    ["an application's router, or a proxy in front of nothing", 404, '{"detail":"Not Found"}'],
  ]) {
    test(`what is said of the other path alone is not believed: ${name}`, async () => {
      const stream = await begin({}, "http://bridge/live/ws");
      world.answers.push(new Response(text, { status }));
      world.last.end(1006);
      await settle();
      assert.equal(states.at(-1).why, `the connection was not accepted, and /live/sse is refused with ${status}: ${text}`);
      await world.pass(1);
      world.last.welcome();
      assert.equal(stream.state, "listening");
    });
  }

  test("a path that was there is there again", async () => {
    const { stream } = await listening();
    world.last.end(1006);
    await world.pass(1);
    world.answers.push(new Response("there is nothing at this path\n", { status: 404 }));
    world.last.end(1006);
    await world.pass(2);
    assert.equal(states.findLast(({ why }) => why).why, "refused with 404: there is nothing at this path");
    assert.deepEqual([world.sockets.length, stream.state], [3, "connecting"]);
  });

  test("at a path of another kind nobody is asked why", async () => {
    const stream = await begin({}, "http://bridge/matches/7/live");
    world.last.end(1006);
    await world.pass(1);
    assert.deepEqual([world.requests.length, world.sockets.length, stream.state], [0, 2, "connecting"]);
    assert.equal(states.find(({ why }) => why).why, "the connection was not accepted");
  });

  test("a stream that says nothing more is one that goes on", async () => {
    await begin();
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("retry: 3000\n\n"));
        globalThis.fetch = async (_, { signal }) => {
          signal.addEventListener("abort", () => controller.error(signal.reason));
          return new Response(body);
        };
      },
    });
    world.last.end(1006);
    await world.pass(4.1);
    assert.equal(states.at(-1).why, "the connection was not accepted");
    assert.ok(states.at(-1).waitSeconds <= 0.5);
  });

  test("a stream that is closed meanwhile stays closed, and a proxy that never answers is not waited for", async () => {
    const hang = (_, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    globalThis.fetch = hang;
    const closed = await begin();
    world.last.end(1006);
    closed.close();
    await world.pass(100);
    assert.equal(closed.state, "closed");
    assert.equal(world.sockets.length + world.timers.size, 1);
    await begin();
    world.last.end(1006);
    await world.pass(4.1);
    assert.equal(states.at(-1).why, "the bridge cannot be reached");
  });

  test("in a page of another origin there may be another reason", async () => {
    for (const [origin, why] of [
      ["http://bridge", "the bridge cannot be reached"],
      ["http://app", "the bridge cannot be reached, or does not let pages of this origin in"],
    ]) {
      globalThis.location = new URL(origin);
      await begin();
      world.last.end(1006);
      await settle();
      delete globalThis.location;
      assert.equal(states.at(-1).why, why);
    }
  });

  test("an error is as good as a close, where a handshake fails, and is nothing else", async () => {
    await begin();
    world.last.onerror({});
    world.last.end(1006);
    await world.pass(1);
    assert.deepEqual([world.requests.length, world.sockets.length], [1, 2]);
    world.last.welcome();
    world.last.onerror({});
    await settle();
    assert.equal(states.at(-1).state, "listening");
    world.last.end(1006);
    assert.equal(states.at(-1).why, "closed with 1006");
  });

  test("an answer of many words is cut short", async () => {
    await begin();
    world.answers.push(new Response("x".repeat(100_000), { status: 500 }));
    world.last.end(1006);
    await settle();
    assert.ok(states.at(-1).why.length < 400);
  });
});

describe("tokens", () => {
  test("a function gives one for every connection, and an expired one is replaced at once", async () => {
    const tokens = ["one", "two", "three"];
    const { stream, heard } = await listening({ token: async () => tokens.shift() });
    assert.deepEqual(world.last.protocols, ["bridge.v1", "bearer.one"]);
    world.last.say(notification(2));
    await world.pass(20);
    world.last.end(4001);
    await settle();
    assert.deepEqual(world.last.protocols, ["bridge.v1", "bearer.two"]);
    assert.equal(world.after, "5-2");
    assert.equal(stream.reconnects, 1);
    world.last.welcome();
    world.last.end(4001);
    await settle();
    assert.equal(world.sockets.length, 2, "what expires at once is no use: wait");
    await world.pass(1);
    assert.deepEqual(world.last.protocols, ["bridge.v1", "bearer.three"]);
    assert.equal(numbers(heard).length, 1);
  });

  test("one that is refused is asked for once more", async () => {
    let given = 0;
    const stream = await begin({ token: () => `t${(given += 1)}` });
    world.answers.push(new Response("expired", { status: 401 }), new Response("expired", { status: 401 }));
    world.last.end(1006);
    await world.pass(1);
    assert.deepEqual(world.last.protocols, ["bridge.v1", "bearer.t2"]);
    world.last.end(1006);
    await assert.rejects(stream.closed, { status: 401 });
  });

  test("one that was good in between may be refused again", async () => {
    const stream = await begin({ token: () => "t" });
    for (let round = 0; round < 3; round += 1) {
      world.answers.push(new Response("expired", { status: 401 }));
      world.last.end(1006);
      await world.pass(20);
      world.last.welcome();
      world.last.end(1006);
      await world.pass(20);
    }
    assert.equal(stream.state, "connecting");
  });

  test("one that an accepted connection was made with may be refused again", async () => {
    const stream = await begin({ token: () => "t" });
    for (let round = 0; round < 3; round += 1) {
      world.answers.push(new Response("expired", { status: 401 }));
      world.last.end(1006);
      await world.pass(20);
      world.last.open(); // its source is away: there is no `subscribed`
      world.last.end(4001);
      await world.pass(20);
    }
    assert.equal(stream.state, "connecting");
  });

  test("where a stream of events is given in spite of it, there may be no authentication", async () => {
    const goesOn = `retry: 3000\n\n${"data: x\n\n".repeat(99)}`;
    for (const [token, said, hinted] of [
      ["aa.bb.cc", goesOn, true],
      [null, goesOn, false],
      ["aa.bb.cc", "retry: 3000\n\n", false],
      ["aa.bb.cc", "<!doctype html>".repeat(99), false],
    ]) {
      const stream = await begin({ token });
      world.answers.push(new Response(said));
      world.last.end(1006);
      await settle();
      const hint = ": a bridge without authentication takes no token; leave it out there";
      assert.equal(states.at(-1).why, `the connection was not accepted${hinted ? hint : ""}`);
      stream.close();
    }
    assert.ok(world.requests.every(({ url }) => url.search === ""));
  });

  test("where none can be had it waits", async () => {
    const ways = [() => Promise.reject(new Error("no network")), () => { throw "no"; }, () => new Promise(() => {}), () => "good"];
    await begin({ token: () => ways.shift()() });
    await world.pass(40);
    assert.deepEqual(states.filter(({ why }) => why).map(({ why }) => why), [
      "there is no token: no network",
      "there is no token: no",
      "there is no token: none within 30 seconds",
    ]);
    assert.deepEqual(world.last.protocols, ["bridge.v1", "bearer.good"]);
  });

  test("one that comes after the stream was closed opens nothing", async () => {
    let give;
    const stream = await begin({ token: () => new Promise((resolve) => (give = resolve)) });
    stream.close();
    give("late");
    await settle();
    assert.equal(world.sockets.length, 0);
    assert.equal(world.timers.size, 0);
  });
});

describe("callbacks", () => {
  test("each gets its type, `onMessage` all, with the text as it came", async () => {
    const all = [];
    const { heard } = await listening({ onMessage: (message) => all.push(message.type) });
    const text = '{"type":"notification","id":"5-2","channel":"a","payload":[1.0,12345678901234567890]}';
    const more = [gap({ pending: true }), { type: "filled", after: "5-2", before: "5-9" }, { type: "error", code: "bad_message", message: "what?" }];
    world.last.say(text, ...more, { type: "position", cursor: "c" }, { type: "new" }, { type: "constructor" }, {});
    assert.deepEqual(heard.map(({ type }) => type), ["subscribed", "notification", "gap", "filled", "error"]);
    assert.deepEqual(all, [...heard.map(({ type }) => type), "position", "new", "constructor", undefined]);
    assert.equal(heard[1].raw, text);
    assert.equal(heard[2].pending, true);
    assert.equal(heard[4].message, "what?");
  });

  test("the states are told, and `closed` is not rejected unheard", async () => {
    const { stream } = await listening();
    world.last.end(1006);
    await world.pass(1);
    stream.close();
    stream.close();
    await stream.closed;
    assert.deepEqual(states.map(({ state }) => state), ["connecting", "listening", "waiting", "connecting", "closed"]);
    assert.deepEqual([states[0].resumes, states[3].resumes, states[4].error], [false, true, null]);
    assert.equal(world.last.closedWith, 1000);
    assert.equal(world.timers.size + world.listeners.size, 0);
  });

  test("one that fails fails alone", async () => {
    const errors = [];
    const original = queueMicrotask;
    globalThis.queueMicrotask = (action) => original(() => {
      try {
        action();
      } catch (error) {
        errors.push(error.message);
      }
    });
    const heard = [];
    const fail = () => {
      throw new Error("mine");
    };
    const { stream } = await listening({ onState: fail, onSubscribed: fail, onMessage: fail, onEvent: (event) => heard.push(event) && fail() });
    world.last.say(notification(2), notification(3));
    await settle();
    globalThis.queueMicrotask = original;
    assert.deepEqual(numbers(heard), [2, 3]);
    assert.deepEqual([stream.state, stream.cursor], ["listening", "5-3"]);
    assert.equal(new Set(errors).size, 1);
  });

  for (const [name, options] of [
    ["onState", (stream) => ({ onState: ({ state }) => state === "listening" && stream().close() })],
    ["onMessage", (stream) => ({ onMessage: () => stream().close() })],
    ["onSubscribed", (stream) => ({ onSubscribed: () => stream().close() })],
  ]) {
    test(`${name} may close the stream`, async () => {
      const heard = [];
      const hear = (event) => heard.push(event);
      const stream = await begin({ onMessage: hear, onSubscribed: hear, onEvent: hear, ...options(() => stream) });
      world.last.open();
      const { onmessage } = world.last;
      for (const message of [SUBSCRIBED, notification(2)]) onmessage({ data: JSON.stringify(message) });
      await world.pass(100);
      assert.deepEqual([stream.state, world.sockets.length, world.timers.size], ["closed", 1, 0]);
      assert.equal(heard.length, name === "onSubscribed" ? 1 : 0);
    });
  }

  test("a state may close the stream that waits or connects", async () => {
    for (const when of ["waiting", "connecting"]) {
      let closed = false;
      const stream = await begin({ onState: ({ state, resumes }) => (closed ||= state === when && resumes !== false && !stream.close()) });
      world.last.welcome();
      world.last.end(1006);
      await world.pass(100);
      assert.deepEqual([closed, stream.state, world.timers.size], [true, "closed", 0]);
    }
    assert.equal(world.sockets.length, 2);
  });

  test("without `onState` nobody misses the end: it is an unhandled rejection", () => {
    const script = `
      import { connect } from "${MODULE}";
      class WebSocket {
        constructor() {
          setImmediate(() => this.onopen() || this.onclose({ code: 1008, reason: "" }));
        }
        close() {}
      }
      connect("http://bridge", { WebSocket, onEvent() {} });
    `;
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "--eval", script], { encoding: "utf8" });
    assert.equal(status, 1);
    assert.match(stderr, /BridgeError: the bridge refuses to go on/);
  });

  test("such a stream cannot be looped over", async () => {
    const { stream } = await listening();
    await assert.rejects(stream.next(), /go to callbacks/);
  });
});

describe("loops", () => {
  test("everything comes in order, with the cursor of what was taken", async () => {
    const stream = await begin();
    world.last.welcome();
    world.last.say(notification(2), { type: "position", cursor: "c3" }, gap({ cursor: "c4" }), { type: "new", cursor: "c5" });
    assert.equal(stream.cursor, null);
    const seen = [];
    for (let i = 0; i < 3; i += 1) seen.push([(await taken(stream)).type, stream.cursor]);
    assert.deepEqual(seen, [["subscribed", "5-1"], ["notification", "c3"], ["gap", "c5"]]);
    assert.equal(await taken(stream), "waits");
    world.last.say({ type: "position", cursor: "c6" });
    assert.equal(stream.cursor, "c6");
  });

  test("leaving the loop closes the stream, and forgets what waits", async () => {
    const stream = await begin();
    world.last.welcome();
    world.last.say(notification(2), notification(3), notification(4));
    for await (const event of stream) if (event.payload?.n === 3) break;
    assert.deepEqual([stream.state, stream.cursor, await taken(stream)], ["closed", "5-3", "done"]);
    await stream.closed;
  });

  test("closing ends loops that wait", async () => {
    const stream = await begin();
    const waiting = [stream.next(), stream.next()];
    stream.close();
    assert.deepEqual(await Promise.all(waiting), [{ value: undefined, done: true }, { value: undefined, done: true }]);
  });

  test("several that wait are served in turn", async () => {
    const stream = await begin();
    const waiting = [stream.next(), stream.next(), stream.next()];
    world.last.welcome();
    world.last.say(notification(2), notification(3));
    assert.deepEqual(numbers((await Promise.all(waiting)).map(({ value }) => value)), [2, 3]);
  });

  test("what waits is bounded: the connection is closed, and made again when half is taken", async () => {
    const size = JSON.stringify(notification(10)).length;
    const stream = await begin({ bufferCharacters: 10 * size });
    world.last.welcome();
    await stream.next();
    for (let n = 10; n < 60; n += 1) world.last.say(notification(n));
    const [socket] = world.sockets;
    assert.deepEqual([stream.state, socket.closedWith, states.at(-1).state], ["paused", 1000, "paused"]);
    await world.pass(100);
    const got = [];
    for (let i = 0; i < 4; i += 1) got.push(await taken(stream));
    assert.deepEqual([world.sockets.length, stream.cursor], [1, "5-13"]);
    got.push(await taken(stream));
    await settle();
    assert.deepEqual([world.sockets.length, world.after, stream.cursor], [2, "5-19", "5-14"]);
    world.last.welcome({ ...SUBSCRIBED, position: "5-19" });
    world.last.say(notification(20), notification(21));
    for (let i = 0; i < 7; i += 1) got.push(await taken(stream));
    assert.deepEqual(numbers(got), [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
    assert.equal(await taken(stream), "waits");
  });

  test("a pause is no failure", async () => {
    const stream = await begin({ bufferCharacters: 1 });
    for (let failure = 0; failure < 5; failure += 1) {
      world.last.end(1006);
      await world.pass(20);
    }
    world.last.welcome();
    await taken(stream);
    world.last.end(1006);
    await world.pass(0);
    assert.ok(states.at(-1).waitSeconds <= 0.5);
  });

  test("what comes before `subscribed` is bounded too", async () => {
    const size = JSON.stringify(notification(10, { id: null })).length;
    const stream = await begin({ bufferCharacters: 2 * size });
    world.last.open();
    for (let n = 10; n < 60; n += 1) world.last.say(notification(n, { id: null }));
    assert.deepEqual([stream.state, world.last.closedWith], ["paused", 1000]);
    const got = [await taken(stream)];
    await settle();
    assert.deepEqual([world.sockets.length, world.after], [2, null]);
    world.last.welcome();
    got.push(await taken(stream), await taken(stream));
    assert.deepEqual(numbers(got), [10, 11]);
    assert.equal(got[2].type, "subscribed");
  });

  test("a paused stream can be closed", async () => {
    const stream = await begin({ bufferCharacters: 1 });
    world.last.welcome();
    assert.equal(stream.state, "paused");
    stream.close();
    assert.equal(await taken(stream), "done");
    await world.pass(100);
    assert.equal(world.sockets.length, 1);
  });
});

describe("whatever happens", () => {
  for (let seed = 1; seed <= 60; seed += 1) {
    test(`each event comes once and in order (${seed})`, async () => {
      let at = seed;
      const draw = () => (at = (at * 48271) % 2147483647) / 2147483647;
      const pick = (...ways) => ways[Math.floor(draw() * ways.length)];
      const stream = await begin({ bufferCharacters: pick(1, 500, 5000), token: pick(undefined, async () => "t") });
      world.chance = draw();
      let newest = 0;
      const served = new Map(); // socket to the last number it was told
      const got = [];
      let waiting = null;
      const take = () => {
        waiting ??= stream.next().then(({ value }) => {
          got.push(value);
          waiting = null;
        });
      };
      const serve = (socket) => {
        const after = socket.url.searchParams.get("after");
        if (!served.has(socket)) {
          served.set(socket, after === null ? newest : Number(after.split("-")[1]));
          socket.welcome({ ...SUBSCRIBED, position: `5-${served.get(socket)}` });
        }
        for (let n = served.get(socket) + 1; n <= newest && socket === world.last && socket.readyState === 1; n += 1) {
          served.set(socket, n);
          socket.say(notification(n));
          if (draw() < 0.02) break;
        }
      };
      serve(world.last);
      for (let step = 0; step < 400; step += 1) {
        const alive = world.last.closedWith === null && world.last.readyState < 2;
        const way = draw();
        if (way < 0.3) newest += Math.ceil(draw() * 5);
        else if (way < 0.5 && alive) serve(world.last);
        else if (way < 0.55 && alive) world.last.end(pick(1006, 1001, 4008, 4013), pick("", "retry=1"));
        else if (way < 0.57 && alive && served.has(world.last)) world.last.say({ type: "position", cursor: `5-${served.get(world.last)}` });
        else if (way < 0.6) await world.pass(draw() * 20);
        else take();
        await settle();
      }
      for (let round = 0; round < 2000 && numbers(got).at(-1) !== newest; round += 1) {
        if (world.last.closedWith === null && world.last.readyState < 2) serve(world.last);
        await world.pass(stream.state === "waiting" ? 20 : 0);
        take();
        await settle();
      }
      assert.deepEqual(numbers(got), Array.from({ length: newest }, (_, i) => i + 1));
      assert.equal(got.filter(({ type }) => type === "subscribed").length, 1);
      assert.equal(stream.cursor, `5-${newest}`);
      stream.close();
    });
  }
});
