// Payloads as text, exactly as they came: a number that JavaScript cannot hold is shown with all its digits.

const MAX_TEXT = 65_536;
const LINE_CHARACTERS = 400;

/** The JSON text of a notification's payload, cut out of the message it came in. */
function payloadText(message) {
  const { raw } = message;
  const start = raw.indexOf('"payload":');
  let end = raw.length - 1;
  if (message.cursor !== undefined) end = raw.lastIndexOf(',"cursor":', end);
  if (message.late) end = raw.lastIndexOf(',"late":', end);
  return start < 0 || end < start ? JSON.stringify(message.payload) : raw.slice(start + 10, end);
}

/** One line of it: a string as its content, for most payloads that are no JSON are sentences. */
function payloadLine(message) {
  const text = typeof message.payload === "string" ? message.payload : payloadText(message);
  return text.length > LINE_CHARACTERS ? `${text.slice(0, LINE_CHARACTERS)}…` : text;
}

/** All of it, indented, up to a bound. */
function payloadPretty(message) {
  if (typeof message.payload === "string") return cut(message.payload);
  return cut(indented(payloadText(message).slice(0, MAX_TEXT + 1)));
}

function cut(text) {
  if (text.length <= MAX_TEXT) return text;
  return `${text.slice(0, MAX_TEXT)}\n… cut here: it has ${count(text.length)} characters or more`;
}

/** JSON text with line breaks and two spaces a level. Strings and numbers stay as they were written. */
function indented(text) {
  let depth = 0;
  const lineBreak = () => `\n${"  ".repeat(Math.min(depth, 64))}`;
  return text.replace(/"(?:[^"\\]|\\.)*"|[{[]\s*[}\]]|[{[]|[}\]]|,|:|\s+/g, (token) => {
    if (token.startsWith('"') || (token.length > 1 && /[{[]/.test(token))) return token;
    if (token === "{" || token === "[") {
      depth += 1;
      return token + lineBreak();
    }
    if (token === "}" || token === "]") {
      depth -= 1;
      return lineBreak() + token;
    }
    if (token === ",") return token + lineBreak();
    return token === ":" ? ": " : "";
  });
}
