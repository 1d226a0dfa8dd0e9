// Follows a bridge and says on standard output what it gets, one JSON object a line. Arguments: the file of the client, the
// URL, a directory with `ws`, or nothing for Node's own WebSocket, and options as JSON; beside those of `connect`: `loop`
// (else callbacks), `delayMilliseconds` between events of the loop, `tokens` ({key, seconds}: sign one for each connection
// that is good for so long), and `closeAtOnce` after `subscribed`.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const [file, url, modules, text] = process.argv.slice(2);
const { loop = false, delayMilliseconds = 0, tokens, closeAtOnce, ...options } = JSON.parse(text);
const { connect } = await import(`data:text/javascript;base64,${readFileSync(file).toString("base64")}`);
const others = modules ? { WebSocket: createRequire(`${modules}/`)("ws") } : {};

const say = (line) => process.stdout.write(`${JSON.stringify({ at: Date.now() / 1000, ...line })}\n`);
const segment = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function sign({ key, seconds }) {
  const body = `${segment({ alg: "HS256", typ: "JWT" })}.${segment({ exp: Math.floor(Date.now() / 1000) + seconds })}`;
  return `${body}.${createHmac("sha256", key).update(body).digest("base64url")}`;
}

const hear = (message) => say({ message });
const callbacks = loop ? {} : { onSubscribed: hear, onEvent: hear, onGap: hear, onFilled: hear, onError: hear };
const stream = connect(url, {
  ...options,
  ...callbacks,
  ...(tokens ? { token: async () => sign(tokens) } : {}),
  ...others,
  onState: ({ error, ...change }) => say({ change: { ...change, error: error && { ...error, message: error.message } } }),
  ...(closeAtOnce ? { onSubscribed: () => stream.close() } : {}),
});

try {
  if (loop) {
    for await (const event of stream) {
      hear(event);
      if (delayMilliseconds) await sleep(delayMilliseconds);
    }
  }
  await stream.closed;
} catch (error) {
  say({ thrown: error.message });
}
