// The types of client.js, the client of notify-bridge.

/**
 * A stream of what happens at a bridge, which begins to connect, and connects again whenever it must.
 *
 * Without message callbacks, loop over it: `for await (const event of stream)`. With any of them (all `on…` but `onState`)
 * messages go to these as they come.
 *
 * @param url `http:`, `https:`, `ws:` or `wss:`, in a page also relative to it. Without a path: `/ws`.
 * @throws {TypeError} for a URL or options that can never be connected with.
 */
export function connect<Payload = any>(url: string | URL, options?: Options<Payload>): EventStream<Payload>;

/** Why a stream has ended for good. */
export class BridgeError extends Error {
  private constructor();
  readonly name: "BridgeError";
  /**
   * The HTTP status of a refused handshake, as far as `/sse` tells: 400, 401, 403 where there was a token, or 404 where a
   * bridge says so before it has ever been heard.
   */
  readonly status: number | null;
  /** The code of a close: 1008, or 4001 where the token is a string. */
  readonly code: number | null;
}

export interface Options<Payload = any> {
  /** Channels to hear; all that the token allows where there are none. */
  channels?: string | readonly string[];
  /** Fields of the payload and the values that they must have, compared as text. */
  where?: Readonly<Record<string, Scalar>> | Iterable<readonly [field: string, value: Scalar]>;
  /** A cursor to go on after: what `stream.cursor` was another time. */
  after?: string | null;
  /**
   * A token, or a function that gives one, called for every connection. One that throws, rejects or takes more than 30
   * seconds is called again after a wait. A bridge without authentication accepts no connection with a token.
   */
  token?: string | null | (() => string | null | undefined | PromiseLike<string | null | undefined>);
  /** How many characters of JSON may wait for a loop; 4 Mi. Callbacks need none. */
  bufferCharacters?: number;
  /** What to connect with, where there is no global `WebSocket`: that of the package `ws`. */
  WebSocket?: WebSocketConstructor;
  /** Called for every change of state. */
  onState?: (change: StateChange) => void;
  onSubscribed?: (event: Subscribed) => void;
  /** Called for every notification. */
  onEvent?: (event: Notification<Payload>) => void;
  onGap?: (event: Gap) => void;
  onFilled?: (event: Filled) => void;
  /** Called where the bridge did not do what it was told. */
  onError?: (event: ErrorMessage) => void;
  /** Called for every message that comes, before the others: for each `subscribed`, for positions and unknown types too. */
  onMessage?: (message: Message<Payload>) => void;
}

export interface EventStream<Payload = any> extends AsyncIterable<StreamEvent<Payload>> {
  readonly state: State;
  /** Where to go on after the last message that was taken; null where that is not known yet. */
  readonly cursor: string | null;
  /** How often the connection was lost, or not made. */
  readonly reconnects: number;
  /** Resolves after `close`; rejects with a `BridgeError` where the stream has ended for good. */
  readonly closed: Promise<void>;
  /** Ends the stream; what was not taken is forgotten, an error too. */
  close(): void;
  /** The next event; done where the stream was closed. Rejects, once, with a `BridgeError` where it has ended for good. */
  next(): Promise<IteratorResult<StreamEvent<Payload>, undefined>>;
  /** The same as `close`, for loops that are left. */
  return(): Promise<IteratorResult<StreamEvent<Payload>, undefined>>;
  [Symbol.asyncIterator](): EventStream<Payload>;
}

/** `paused`: what waits for the loop is too much, and the connection was closed until half of it is taken. */
export type State = "connecting" | "listening" | "waiting" | "paused" | "closed";

export type StateChange =
  /** `resumes`: whether it goes on after a position. */
  | { state: "connecting"; resumes: boolean }
  | { state: "listening" }
  /** Not connected: why, and how long until the next attempt, which a browser may make sooner. */
  | { state: "waiting"; why: string; waitSeconds: number }
  | { state: "paused" }
  /** `error` is null after `close`. */
  | { state: "closed"; error: BridgeError | null };

/** What a loop gets. */
export type StreamEvent<Payload = any> = Subscribed | Notification<Payload> | Gap | Filled | ErrorMessage;

/** What comes from the bridge. Later versions may send other types, which are to be ignored. */
export type Message<Payload = any> = StreamEvent<Payload> | Position | Pong;

interface Received {
  /** The message as it came, JSON: here the digits of large numbers are all there. */
  readonly raw: string;
  /** Where to go on after this message, where that takes more than an id. */
  readonly cursor?: string | null;
}

/** From here on nothing is missed. It comes once. */
export interface Subscribed extends Received {
  readonly type: "subscribed";
  readonly channels: readonly string[];
  readonly where: Readonly<Record<string, string | readonly string[]>>;
  readonly sub: string | null;
  readonly position: string | null;
}

export interface Notification<Payload = any> extends Received {
  readonly type: "notification";
  /** Opaque; null for what an application has published by the bridge's library, outside of the guarantee. */
  readonly id: string | null;
  readonly channel: string;
  /** The JSON value of the NOTIFY's payload; a string where it is no JSON. */
  readonly payload: Payload;
  /** It comes after newer ones: it fills a pending gap. */
  readonly late?: true;
}

/** Between these positions (null: unknown) something may be missing, whatever the filter. */
export interface Gap extends Received {
  readonly type: "gap";
  readonly after: string | null;
  readonly before: string | null;
  readonly reason: GapReason;
  /** Late events may still fill it: `filled` follows, or the final gap of the same bounds. */
  readonly pending?: true;
}

export type GapReason =
  | "failover"
  | "postgres_session_lost"
  | "history_trimmed"
  | "unknown_position"
  | "slow_client"
  | "channels_changed";

/** The pending gap of these bounds has been filled: nothing was lost. */
export interface Filled extends Received {
  readonly type: "filled";
  readonly after: string | null;
  readonly before: string | null;
}

/** Something that this client said was not done. */
export interface ErrorMessage extends Received {
  readonly type: "error";
  readonly code: "bad_message" | "unknown_channel" | "forbidden" | "too_many_subscriptions" | "rate_limited";
  readonly message: string;
}

export interface Position extends Received {
  readonly type: "position";
}

export interface Pong extends Received {
  readonly type: "pong";
}

export type Scalar = string | number | bigint | boolean | null;

/** What is needed of a WebSocket: browsers, Node and `ws` have more. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
  /** Leaves a peer that does not answer `close` within 2 seconds. */
  terminate?(): void;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;
