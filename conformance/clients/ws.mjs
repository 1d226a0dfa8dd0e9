// One WebSocket by Node's `ws`. Arguments: the URL, and a JSON object of options (`protocols`, `headers`, `origin`).
// Standard output: what happens, one JSON object a line. Standard input: {"send": text}, {"close": code}, {"pause": true}.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const WebSocket = createRequire(process.env.CONFORMANCE_NODE_MODULES + "/")("ws");
const [url, text] = process.argv.slice(2);
const { protocols = [], ...options } = JSON.parse(text ?? "{}");
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");

const socket = new WebSocket(url, protocols, options);
socket.on("open", () => say({ event: "open", protocol: socket.protocol }));
socket.on("message", (data, binary) => say({ event: "message", text: data.toString(), binary }));
socket.on("ping", () => say({ event: "ping" }));
socket.on("unexpected-response", (_, response) => {
  let body = "";
  response.on("data", (data) => (body += data));
  response.on("end", () => {
    say({ event: "refused", status: response.statusCode, headers: response.headers, body });
    process.exit();
  });
});
socket.on("error", (error) => say({ event: "error", text: String(error) }));
socket.on("close", (code, reason) => say({ event: "close", code, reason: reason.toString() }));
const commands = createInterface({ input: process.stdin });
commands.on("line", (line) => {
  const command = JSON.parse(line);
  if ("send" in command) socket.send(command.send);
  if ("close" in command) socket.close(command.close);
});
commands.on("close", () => process.exit());
