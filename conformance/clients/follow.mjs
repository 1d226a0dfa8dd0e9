// The bridge's own client in Node, as the server serves it. Arguments: the URL of the server, and options as JSON.
// Standard output: every event that comes, one JSON object a line.
import { createRequire } from "node:module";

const WebSocket = createRequire(process.env.CONFORMANCE_NODE_MODULES + "/")("ws");
const [url, options] = process.argv.slice(2);
const source = await (await fetch(`${url}/client.js`)).text();
const { connect } = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);

for await (const event of connect(url, { ...JSON.parse(options), WebSocket })) {
  process.stdout.write(JSON.stringify(event) + "\n");
}
