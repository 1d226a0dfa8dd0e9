// LISTEN with pg, a loop of send with ws. The first argument is the directory of the packages.
const { createRequire } = require("node:module");
const from = createRequire(process.argv[2] + "/");
const { Client } = from("pg");
const { WebSocketServer, WebSocket } = from("ws");

async function main() {
  const database = new Client({ connectionString: process.env.DATABASE_URL });
  await database.connect();
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false });
  database.on("notification", ({ payload }) => {
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(payload);
    }
  });
  server.on("connection", (client) => client.on("error", () => client.terminate()));
  await database.query("LISTEN match_change");
  if (!server.address()) await new Promise((resolve) => server.on("listening", resolve));
  console.log(`listening ${server.address().port}`);
  process.stdin.resume().on("end", () => process.exit(0));
}

main();
