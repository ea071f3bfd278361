// The chat page. Talks to /v1/chat/completions of its own origin; every text enters the page as text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const conversation = []; // messages as the API takes them
let running = null; // AbortController of the reply being streamed

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

function addBubble(role) {
  const bubble = document.createElement("div");
  bubble.className = `message ${role}`;
  byId("messages").append(bubble);
  return bubble;
}

function addPart(bubble, part) {
  const last = bubble.lastChild;
  if (part.type === "text") {
    if (last && last.nodeType === Node.TEXT_NODE) last.data += part.text;
    else bubble.append(document.createTextNode(part.text));
  } else if (part.type === "output" && last && last.className === "tool") {
    last.append(document.createTextNode(` = ${part.text}`));
  } else {
    const block = document.createElement("code");
    block.className = "tool";
    block.title = "The calculator worked this out, not the model";
    block.append(document.createTextNode(part.text));
    bubble.append(block);
  }
}

function showConversation() {
  byId("messages").replaceChildren();
  for (const message of conversation) {
    const bubble = addBubble(message.role);
    for (const part of message.parts || [{ type: "text", text: message.content }]) addPart(bubble, part);
  }
  refreshButtons();
}

function refreshButtons() {
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  byId("again").disabled = Boolean(running) || !conversation.some((message) => message.role === "assistant");
  byId("reset").disabled = Boolean(running);
}

function scrollDown(force = false) {
  const box = byId("messages");
  if (force || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

function requestBody() {
  const system = byId("system").value.trim();
  const seed = byId("seed").value;
  const body = {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...conversation],
    temperature: Number(byId("temperature").value),
    max_tokens: Math.max(1, Math.floor(Number(byId("max-tokens").value) || 256)),
    stream: true,
    stream_options: { include_usage: true },
  };
  if (seed !== "") body.seed = Math.max(0, Math.floor(Number(seed)));
  return body;
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

// Yields the JSON of each event. Events may be cut anywhere by the network: only whole ones are parsed.
async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection ended before the reply did");
    buffer += value.replaceAll("\r", "");
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      yield JSON.parse(event.slice(6));
    }
  }
}

function append(message, bubble, part) {
  const parts = message.parts;
  const last = parts[parts.length - 1];
  if (part.type === "text") message.content += part.text;
  if (part.type === "text" && last && last.type === "text") last.text += part.text;
  else parts.push({ type: part.type, text: part.text });
  addPart(bubble, part);
}

async function streamReply(message, bubble) {
  const started = performance.now();
  let first = 0;
  let pieces = 0;
  let ending = null;
  let usage = null;
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(requestBody()), signal: running.signal,
  });
  if (response.status === 401) {
    byId("settings").open = true;
    byId("key-row").hidden = false;
    byId("key").focus();
  }
  if (!response.ok) throw new Error(await problemOf(response));
  for await (const event of serverEvents(response)) {
    if (event.error) throw new Error(event.error.message);
    usage = event.usage || usage;
    const choice = event.choices && event.choices[0];
    if (!choice) continue;
    const parts = [...(choice.delta.content ? [{ type: "text", text: choice.delta.content }] : []), ...(choice.delta.parts || [])];
    for (const part of parts) {
      first = first || performance.now();
      pieces += 1;
      bubble.classList.remove("waiting");
      append(message, bubble, part);
    }
    ending = choice.finish_reason || ending;
    scrollDown();
  }
  const seconds = (performance.now() - first) / 1000;
  const tokens = usage ? usage.completion_tokens : pieces;
  const speed = tokens > 1 && seconds > 0 ? `, ${((tokens - 1) / seconds).toFixed(0)} tokens/s` : "";
  const used = usage ? `, ${usage.total_tokens} of ${byId("model").dataset.context} context tokens used` : "";
  const cut = ending === "length" ? "; the reply reached its limit" : "";
  say(`${tokens} tokens, first after ${(((first || performance.now()) - started)).toFixed(0)} ms${speed}${used}${cut}`);
}

async function reply() {
  const message = { role: "assistant", content: "", parts: [] };
  const bubble = addBubble("assistant");
  bubble.classList.add("waiting");
  running = new AbortController();
  refreshButtons();
  say("");
  scrollDown(true);
  try {
    await streamReply(message, bubble);
  } catch (problem) {
    if (problem.name === "AbortError") say("stopped");
    else say(problem.message, true);
  }
  bubble.classList.remove("waiting");
  running = null;
  if (message.parts.length) {
    conversation.push(message);
  } else {
    bubble.remove();
    const unanswered = conversation.pop(); // the user's message goes back to where it can be edited
    showConversation();
    if (!byId("input").value) byId("input").value = unanswered.content;
  }
  refreshButtons();
}

function send() {
  const text = byId("input").value.trim();
  if (!text || running) return;
  byId("input").value = "";
  if (window.innerWidth < 600) byId("settings").open = false; // a small screen belongs to the conversation
  conversation.push({ role: "user", content: text });
  addPart(addBubble("user"), { type: "text", text });
  reply();
}

function again() {
  if (running || !conversation.length || conversation[conversation.length - 1].role !== "assistant") return;
  conversation.pop();
  showConversation();
  reply();
}

async function connect() {
  try {
    const health = await (await fetch("/health")).json();
    byId("model").textContent = `${health.model} (${health.backend}, ${health.dtype}, context ${health.context})`;
    byId("model").dataset.context = health.context;
  } catch {
    say("the server does not answer", true);
  }
}

byId("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
byId("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && running) running.abort(); });
byId("stop").addEventListener("click", () => running && running.abort());
byId("again").addEventListener("click", again);
byId("reset").addEventListener("click", () => { conversation.length = 0; showConversation(); say(""); byId("input").focus(); });
byId("temperature").addEventListener("input", () => { byId("temperature-shown").textContent = byId("temperature").value; });
byId("key").addEventListener("change", () => sessionStorage.setItem("key", byId("key").value));
connect();
refreshButtons();
