// What users write, and what the types must refuse: a line after `@ts-expect-error` has to be an error.

import { WebSocket } from "ws";

import {
  BridgeError,
  connect,
  type EventStream,
  type Gap,
  type Notification,
  type State,
  type StateChange,
  type StreamEvent,
} from "./client.js";

interface Match {
  match_id: number;
  score?: [number, number];
}

export async function loop(): Promise<string> {
  const stream: EventStream<Match> = connect<Match>(new URL("https://bridge.example"), {
    channels: ["match_change"],
    where: { match_id: 7, live: true, name: "x", none: null },
    after: null,
    token: async () => "token",
    WebSocket,
    bufferCharacters: 1_000_000,
  });
  for await (const event of stream) {
    switch (event.type) {
      case "notification": {
        const id: number = event.payload.match_id;
        // @ts-expect-error: no field of this payload
        event.payload.matchId;
        if (event.late && event.id !== null) return `${id} ${event.channel} ${event.id} ${event.cursor ?? ""} ${event.raw}`;
        break;
      }
      case "gap":
        if (!event.pending) return `${event.after} ${event.before} ${event.reason}`;
        // @ts-expect-error: a gap has no payload
        event.payload;
        break;
      case "filled":
        return `${event.after} ${event.before}`;
      case "subscribed":
        return event.channels.join() + Object.keys(event.where).join() + event.position;
      case "error":
        return event.code + event.message;
      default: {
        const never: never = event;
        return never;
      }
    }
  }
  return stream.cursor ?? "";
}

export function callbacks(show: (text: string) => void): EventStream {
  const stream = connect("http://localhost:8000", {
    channels: "match_change",
    where: new Map([["match_id", 7]]),
    token: "token",
    onEvent: (event: Notification) => show(event.payload.anything),
    onGap: ({ reason }: Gap) => show(reason),
    onFilled: ({ type }) => show(type),
    onSubscribed: ({ sub }) => show(String(sub)),
    onError: ({ message }) => show(message),
    onMessage: (message) => show(message.type === "position" ? String(message.cursor) : message.raw),
    onState: (change: StateChange) => {
      const state: State = change.state;
      if (change.state === "waiting") show(`${state} ${change.why} ${change.waitSeconds}`);
      if (change.state === "connecting" && change.resumes) show("again");
      if (change.state === "closed" && change.error instanceof BridgeError) show(String(change.error.status ?? change.error.code));
      // @ts-expect-error: only where it is closed
      change.error;
    },
  });
  stream.closed.then(() => show("closed"), (error: unknown) => show(String(error)));
  return stream;
}

export async function steps(stream: EventStream<Match>): Promise<StreamEvent<Match> | undefined> {
  const { value, done } = await stream.next();
  if (done) return undefined;
  stream.close();
  // @ts-expect-error: not to be set
  stream.cursor = "1-1";
  return value;
}

export function browser(): void {
  connect("ws", { WebSocket: globalThis.WebSocket });
  // @ts-expect-error: no such option
  connect("ws", { chanels: [] });
  // @ts-expect-error: no list
  connect("ws", { where: { match_id: [7] } });
  // @ts-expect-error: no WebSocket
  connect("ws", { WebSocket: Date });
  // @ts-expect-error: no number
  connect("ws", { token: 7 });
}
