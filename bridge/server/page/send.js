// Where the bridge runs on embedded servers: send a NOTIFY. It comes back as an event through a subscription alone.

async function sendNotify() {
  const headers = { "Content-Type": "application/json" };
  const token = $("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const body = JSON.stringify({ channel: $("send-channel").value, payload: $("send-payload").value });
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), 2 * ANSWER_MILLISECONDS);
  try {
    const response = await fetch("notify", { method: "POST", headers, body, signal: limit.signal });
    const text = (await response.text()).trim();
    tell(response.ok, response.ok ? sent(JSON.parse(text)) : text || `refused with ${response.status}`);
  } catch {
    tell(false, "the bridge does not answer: it is not known whether it was sent");
  } finally {
    clearTimeout(timer);
  }
}

function sent({ payload_bytes: size }) {
  return `Sent, ${count(size)} bytes at ${clock(new Date())}.${stream ? "" : " Start listening to see what comes."}`;
}

function tell(good, text) {
  mark($("send-result"), "good", String(good));
  write($("send-result"), text);
}

statusListeners.push(({ embedded, channels = [] }) => {
  $("send").hidden = !embedded;
  const select = $("send-channel");
  if (select.dataset.names === JSON.stringify(channels)) return;
  select.dataset.names = JSON.stringify(channels);
  const chosen = select.value || (channels.includes("match_change") ? "match_change" : "");
  select.replaceChildren(...channels.map((name) => make("option", { value: name, textContent: name })));
  if (channels.includes(chosen)) select.value = chosen;
});
$("send").addEventListener("submit", (event) => {
  event.preventDefault();
  sendNotify();
});

poll();
