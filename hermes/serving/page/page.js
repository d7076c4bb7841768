"use strict";
// A conversation with the model of this server. Conversations stay in this browser.

const find = id => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const STORE = "hermes.conversations", SETTINGS = "hermes.settings", KEY = "hermes.key";

const load = (name, otherwise) => {
  try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { return otherwise; }
};
/** Whether the browser has kept it: a store may be full or private. */
const keep = (name, value) => {
  try { localStorage.setItem(name, JSON.stringify(value)); return true; } catch { return false; }
};

let conversations = load(STORE, []); // [{id, messages: [{role, content, failed}]}]
let current = null, model = "", answering = null;

function element(kind, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function button(text, action) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function begin() {
  current = { id: String(Date.now()) + Math.random().toString(36).slice(2), messages: [] };
  find("rate").textContent = "";
  draw();
  find("input").focus();
}

function save() {
  if (current.messages.length && !current.gone && !conversations.includes(current)) conversations.unshift(current);
  if (!keep(STORE, conversations)) find("rate").textContent = "the browser keeps no more: this is lost with the page";
}

/** Takes over what another tab has kept; an answer under way goes on where it is. */
function takeOver(event) {
  if (event.key !== STORE && event.key !== null) return;
  conversations = load(STORE, []);
  const kept = conversations.find(one => one.id === current.id);
  const differs = kept && !answering && JSON.stringify(kept) !== JSON.stringify(current);
  if (differs) current = kept;
  else if (kept) conversations[conversations.indexOf(kept)] = current;
  if (differs) draw(); else drawList();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { /* browsers have it on this machine and over https only */ }
  const area = element("textarea"), before = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}

function drawList() {
  find("conversations").replaceChildren(...conversations.map(one => {
    const item = element("li", "", one === current ? "current" : "");
    const title = button(one.messages[0]?.content.slice(0, 60) || "Empty", () => { if (!answering) { current = one; find("rate").textContent = ""; draw(); find("side").classList.remove("open"); } });
    title.className = "title";
    const remove = button("×", () => {
      conversations = conversations.filter(other => other !== one);
      keep(STORE, conversations);
      one.gone = true;
      if (one !== current) drawList();
      else if (answering) answering.abort();
      else begin();
    });
    remove.className = "remove";
    remove.setAttribute("aria-label", `Delete the conversation ${title.textContent}`);
    item.append(title, remove);
    return item;
  }));
}

function drawMessages() {
  const list = find("messages");
  if (!current.messages.length) {
    list.replaceChildren(element("p", model ? "Say something to the model." : "", "empty"));
    if (model) list.append(element("p", "Enter sends, Shift+Enter begins a line, Esc stops an answer.", "empty keys"));
    return;
  }
  list.replaceChildren(...current.messages.map((message, number) => {
    const box = element("div", "", `message ${message.role}${message.failed ? " failed" : ""}`);
    box.append(element("div", message.content, "said"));
    const tools = element("div", "", "tools");
    tools.append(button("Copy", async event => {
      const own = event.target;
      own.textContent = await copy(message.content) ? "Copied" : "Not copied";
      setTimeout(() => { own.textContent = "Copy"; }, 1200);
    }));
    const last = number === current.messages.length - 1;
    if (message.role === "assistant" && last) tools.append(button("Regenerate", regenerate));
    if (message.role === "user") tools.append(button("Edit", () => edit(number)));
    box.append(tools);
    return box;
  }));
  if (answering) list.lastElementChild.classList.add("writing");
  list.scrollTop = list.scrollHeight;
}

function draw() {
  drawList();
  drawMessages();
  find("send").hidden = Boolean(answering);
  find("stop").hidden = !answering;
}

function edit(number) {
  if (answering) return;
  find("input").value = current.messages[number].content;
  current.messages.length = number;
  save();
  draw();
  fit();
  find("input").focus();
}

function regenerate() {
  if (answering) return;
  while (current.messages.at(-1)?.role === "assistant") current.messages.pop();
  if (current.messages.length) answer(true);
}

function makeBody(anew, said) {
  const system = find("system").value.trim();
  const body = { model, stream: true, messages: [...(system ? [{ role: "system", content: system }] : []), ...said] };
  for (const name of NUMBERS) if (find(name).value !== "") body[name] = Number(find(name).value);
  // Without a seed of one's own each answer is another one.
  if (body.seed === undefined) body.seed = Math.floor(Math.random() * 2 ** 31);
  else if (anew) body.seed += Math.floor(Math.random() * 2 ** 20) + 1;
  return body;
}

function headers() {
  const key = find("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** What is said of an error: browsers have words of their own for a server that is gone. */
function describe(error) {
  const gone = error.name === "TypeError" && /fetch|network|load/i.test(error.message);
  return gone ? "The server does not answer; is it still running?" : error.message;
}

/** Yields the objects of server-sent events. */
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

/** Asks for an answer; the oldest turns, answered or not, are left out where the context has no room for all. */
async function ask(anew, signal) {
  const said = current.messages.filter(one => !one.failed).map(({ role, content }) => ({ role, content }));
  for (let left = 0;;) {
    const body = makeBody(anew, said.slice(left));
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
    if (response.ok) return { response, left };
    const error = (await response.json()).error;
    const next = said.findIndex((one, place) => place > left && one.role === "user");
    if (error.code !== "context_length_exceeded" || next < 0) throw new Error(error.message);
    left = next;
  }
}

async function answer(anew = false) {
  const message = { role: "assistant", content: "" };
  answering = new AbortController();
  const mine = answering, whose = current, asked = ask(anew, mine.signal);
  whose.messages.push(message);
  find("rate").textContent = "";
  save();
  draw();
  let count = 0, first = 0, rate = "", dropped = 0;
  const tell = () => {
    const lost = dropped && (dropped > 1 ? `the oldest ${dropped} messages no longer fit` : "the oldest message no longer fits") + " the context";
    find("rate").textContent = [lost, rate].filter(Boolean).join("; ");
  };
  const show = () => {
    if (whose !== current) return;
    const said = find("messages").lastElementChild?.querySelector(".said");
    const list = find("messages"), atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    if (said) said.textContent = message.content;
    if (atEnd) list.scrollTop = list.scrollHeight;
    const seconds = (performance.now() - first) / 1000;
    if (count > 1 && seconds > 0.5) rate = `${count} pieces, ${((count - 1) / seconds).toFixed(1)} a second`;
    tell();
  };
  try {
    const { response, left } = await asked;
    dropped = left;
    tell();
    for await (const event of readEvents(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.dropped_messages) dropped = event.dropped_messages;
      const text = event.choices[0]?.delta.content;
      if (!text) continue;
      if (!count++) first = performance.now();
      message.content += text;
      show();
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      message.failed = true;
      message.content += `${message.content ? "\n\n" : ""}${describe(error)}`;
    }
  }
  if (!message.content) whose.messages.pop();
  answering = null;
  save();
  if (whose.gone) begin(); else draw();
  find("input").focus();
}

function send() {
  const text = find("input").value.trim();
  if (!text || answering) return;
  current.messages.push({ role: "user", content: text });
  find("input").value = "";
  fit();
  answer();
}

function fit() {
  const input = find("input");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

async function readModel() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error.message);
    model = found.data[0].id;
    const chats = found.data[0].has_chat_template;
    find("model").textContent = `${model}, context of ${found.data[0].max_model_len.toLocaleString("en")} tokens${chats ? "" : "; it has no chat template, so it cannot talk"}`;
    find("send").disabled = !chats;
  } catch (error) {
    find("model").textContent = describe(error);
  }
  drawMessages();
  document.body.dataset.ready = "yes";
}

function restoreSettings() {
  const settings = load(SETTINGS, {});
  for (const name of [...NUMBERS, "system"]) find(name).value = settings[name] ?? "";
  find("key").value = load(KEY, "");
  find("settings").addEventListener("input", () => {
    keep(SETTINGS, Object.fromEntries([...NUMBERS, "system"].map(name => [name, find(name).value])));
    keep(KEY, find("key").value);
  });
  find("key").addEventListener("change", readModel);
  find("settings").addEventListener("submit", event => event.preventDefault());
}

find("compose").addEventListener("submit", event => { event.preventDefault(); send(); });
find("input").addEventListener("input", fit);
find("input").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
find("stop").addEventListener("click", () => answering?.abort());
find("new").addEventListener("click", () => { if (!answering) { begin(); find("side").classList.remove("open"); } });
find("open-settings").addEventListener("click", event => {
  find("settings").hidden = !find("settings").hidden;
  event.target.setAttribute("aria-expanded", String(!find("settings").hidden));
});
find("open-side").addEventListener("click", event => { event.stopPropagation(); find("side").classList.add("open"); });
// On a phone the list lies over the conversation, and a touch beside it closes it.
document.querySelector("main").addEventListener("click", () => find("side").classList.remove("open"));
find("close-side").addEventListener("click", () => find("side").classList.remove("open"));
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && answering) answering.abort();
  if (event.key === "Escape") find("side").classList.remove("open");
  if (event.key === "O" && event.ctrlKey && event.shiftKey && !answering) { event.preventDefault(); begin(); }
});

window.addEventListener("storage", takeOver);

restoreSettings();
begin();
readModel();
