// The page: shows the conversation and does what its buttons say.

import { element, render } from "./markdown.js";
import { Conversations, keepSettings, settings } from "./store.js";
import { ask, chat } from "./stream.js";

const $ = (id) => document.getElementById(id);
const talk = $("talk");
const input = $("input");
const conversations = new Conversations();

// What runs: its message, and what stops it.
let running = null;
let adapters = [];

function button(label, title, act) {
  const node = element("button", label);
  node.type = "button";
  node.title = title;
  node.setAttribute("aria-label", title);
  node.addEventListener("click", act);
  return node;
}

function say(text) {
  $("state").textContent = text;
}

function keep() {
  if (!conversations.keep()) say("This browser has no more room: the conversation is not kept.");
}

// Conversations

function showList() {
  $("list").replaceChildren(
    ...conversations.all.map((one) => {
      const open = button(one.title || "New conversation", "Show this conversation", () => switchTo(one));
      open.className = "title";
      open.setAttribute("aria-label", one.title || "New conversation");
      const remove = button("✕", "Delete this conversation", () => {
        stop();
        conversations.remove(one);
        show();
      });
      remove.className = "remove";
      const item = element("li", open, remove);
      if (one === conversations.current) {
        item.className = "active";
        open.setAttribute("aria-current", "true");
      }
      return item;
    }),
  );
}

function switchTo(one) {
  stop();
  conversations.current = one;
  openSide(false);
  show();
  input.focus();
}

function begin() {
  stop();
  conversations.add();
  openSide(false);
  show();
  input.focus();
}

function openSide(open) {
  $("side").classList.toggle("open", open);
  $("menu").setAttribute("aria-expanded", String(open));
}

function exportTalk() {
  const one = conversations.current;
  const messages = conversations.path().map((index) => {
    const { role, content, reasoning, calls } = conversations.node(index);
    return { role, content, ...(reasoning && { reasoning }), ...(calls?.length && { calls }) };
  });
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ title: one.title, messages }, null, 2)], { type: "application/json" }));
  link.download = `${(one.title || "conversation").replace(/[^\p{L}\p{N} -]/gu, "").slice(0, 40)}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// Messages

function show() {
  showList();
  const path = conversations.path();
  talk.replaceChildren(...path.map(showMessage));
  if (!path.length) {
    const hint = element("p", "Ask something.");
    hint.className = "hint";
    talk.append(hint);
  }
  talk.scrollTop = talk.scrollHeight;
}

function showMessage(index) {
  const node = element("article");
  node.className = `message ${conversations.node(index).role}`;
  node.dataset.index = index;
  fill(node, index);
  return node;
}

function fill(node, index) {
  const message = conversations.node(index);
  const body = element("div");
  body.className = "body";
  if (message.role !== "assistant") {
    body.textContent = message.content;
    node.setAttribute("aria-label", message.role === "tool" ? "Result of a tool" : "You");
  } else {
    node.setAttribute("aria-label", "Answer");
    body.append(...answer(message, node));
  }
  node.replaceChildren(body, acts(index, message));
}

function answer(message, node) {
  const parts = [];
  const runs = running?.message === message;
  if (message.reasoning) {
    const folded = element("details", element("summary", runs && !message.content ? "Thinking…" : "Thinking"), element("pre", message.reasoning));
    folded.className = "reasoning";
    // What was opened stays open while more comes.
    folded.open = node.querySelector("details.reasoning")?.open ?? false;
    parts.push(folded);
  }
  parts.push(render(message.content));
  (message.calls ?? []).forEach((call, i) => {
    const shown = element("details", element("summary", "Calls ", element("code", call.name ?? "")), element("pre", pretty(call.text)));
    shown.className = "call";
    shown.open = node.querySelectorAll("details.call")[i]?.open ?? true;
    parts.push(shown);
  });
  if (message.error) {
    const wrong = element("p", message.error);
    wrong.className = "wrong";
    wrong.setAttribute("role", "alert");
    parts.push(wrong);
  }
  if (runs) {
    const mark = element("span");
    mark.className = "waiting";
    parts.push(mark);
  }
  return parts;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function acts(index, message) {
  const row = element("div");
  row.className = "acts";
  if (running?.message === message) return row;
  const [at, of] = conversations.branch(index);
  if (of > 1) {
    const step = (by) => () => {
      stop();
      conversations.choose(index, by);
      keep();
      show();
    };
    row.append(button("‹", "The branch before", step(-1)), `${at + 1}/${of}`, button("›", "The next branch", step(1)));
  }
  if (message.role === "user") row.append(button("Edit", "Edit, on a branch of its own", () => edit(index)));
  if (message.role === "assistant") {
    row.append(button("Again", "Another answer (Alt+R)", () => again(index)));
    const copy = button("Copy", "Copy the answer", () => navigator.clipboard?.writeText(message.content).then(() => (copy.textContent = "Copied")));
    row.append(copy);
    if (message.note) row.append(message.note);
    if (message.calls?.length && conversations.path().at(-1) === index) return element("div", results(index, message), row);
  }
  return row;
}

// Fields for what the tools gave back: the person at the page runs them.
function results(index, message) {
  const form = element("form");
  for (const call of message.calls) {
    const field = element("input");
    field.placeholder = `Result of ${call.name}`;
    field.setAttribute("aria-label", field.placeholder);
    const row = element("div", field);
    row.className = "result";
    form.append(row);
  }
  const go = element("button", "Send results");
  form.lastChild.append(go);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    let last = index;
    [...form.querySelectorAll("input")].forEach((field, i) => {
      last = conversations.append(last, { role: "tool", call: message.calls[i].id, content: field.value });
    });
    reply(last);
  });
  return form;
}

function edit(index) {
  const node = talk.querySelector(`[data-index="${index}"]`);
  const text = element("textarea");
  text.value = conversations.node(index).content;
  text.setAttribute("aria-label", "Edited message");
  const send = () => {
    if (!text.value.trim()) return;
    stop();
    reply(conversations.append(conversations.node(index).parent, { role: "user", content: text.value }));
  };
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      fill(node, index);
      input.focus();
    }
  });
  const row = element("div", button("Send", "Send the edited message", send), button("Cancel", "Leave it as it was", () => fill(node, index)));
  row.className = "acts";
  node.replaceChildren(text, row);
  text.focus();
}

function again(index) {
  stop();
  reply(conversations.node(index).parent);
}

// Asking

function request(index) {
  const body = { model: $("model").value, messages: conversations.before(index) };
  if (settings.system) body.messages.unshift({ role: "system", content: settings.system });
  for (const name of ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_tokens"]) {
    const value = settings[name];
    if (value !== undefined && value !== "") body[name] = Number(value);
  }
  if (settings.tools?.trim()) body.tools = JSON.parse(settings.tools);
  if ($("adapter").value) body.adapters = $("adapter").value;
  return body;
}

async function reply(parent) {
  const index = conversations.append(parent, { role: "assistant", content: "" });
  const message = conversations.node(index);
  const control = new AbortController();
  running = { message, control };
  $("stop").hidden = false;
  $("send").hidden = true;
  show();
  const node = talk.lastElementChild;
  const clock = { begin: performance.now(), first: 0, pieces: 0 };
  let drawn = 0;
  const draw = () => {
    drawn ||= requestAnimationFrame(() => {
      drawn = 0;
      if (conversations.path().at(-1) !== index) return;
      const follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
      fill(node, index);
      if (follows) talk.scrollTop = talk.scrollHeight;
    });
  };
  try {
    let body;
    try {
      body = request(index);
    } catch (error) {
      throw new Error(`The tools in the settings are not JSON: ${error.message}`);
    }
    await chat(body, control.signal, (piece) => {
      hear(piece, message, clock);
      draw();
    });
  } catch (error) {
    if (error.name !== "AbortError") message.error = error.message || String(error);
    else message.note = "stopped";
  }
  if (running?.message === message) {
    running = null;
    $("stop").hidden = true;
    $("send").hidden = false;
  }
  cancelAnimationFrame(drawn);
  if (message.note && clock.first) say(message.note);
  else if (message.error) say("");
  keep();
  showList();
  if (node.isConnected) fill(node, index);
  talk.scrollTop = talk.scrollHeight;
}

function hear(piece, message, clock) {
  const now = performance.now();
  if (piece.total) {
    say(`reading ${piece.read} of ${piece.total} tokens`);
    return;
  }
  if (piece.text !== undefined) message.content += piece.text;
  if (piece.reasoning) message.reasoning = (message.reasoning ?? "") + piece.reasoning;
  if (piece.call) {
    const { index, id, name, text } = piece.call;
    message.calls ??= [];
    const call = (message.calls[index] ??= { id, name, text: "" });
    call.text += text;
  }
  if (piece.finish === "length") message.cut = true;
  if (piece.usage) {
    const { completion_tokens: tokens, prompt_tokens: read, prompt_tokens_details: details } = piece.usage;
    const seconds = (now - clock.first) / 1000;
    const speed = tokens > 1 && seconds > 0 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    const known = details?.cached_tokens ? ` (${details.cached_tokens} known)` : "";
    message.note = `${read}${known} + ${tokens} tokens${speed}${message.cut ? ", cut at the most tokens" : ""}`;
    return;
  }
  if (piece.finish) return;
  clock.first ||= now;
  clock.pieces += 1;
  const seconds = (now - clock.first) / 1000;
  if (seconds > 0.2) say(`${((clock.pieces - 1) / seconds).toFixed(1)} tokens/s`);
}

function stop() {
  running?.control.abort();
}

// Settings

const KEPT = ["system", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_tokens", "tools", "theme"];

function bindSettings() {
  for (const name of KEPT) {
    const field = $(name);
    field.value = settings[name] ?? "";
    field.addEventListener("input", () => {
      settings[name] = field.value;
      keepSettings();
      dress();
    });
  }
  $("key").value = sessionStorage.getItem("mlxlm.key") ?? "";
  $("key").addEventListener("change", () => {
    sessionStorage.setItem("mlxlm.key", $("key").value);
    models();
  });
  for (const name of ["model", "adapter"]) {
    $(name).addEventListener("change", () => {
      settings[name] = $(name).value;
      keepSettings();
      if (name === "model") adapterChoices();
    });
  }
  dress();
}

function dress() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

function showSettings() {
  const open = $("settings").hidden;
  $("settings").hidden = !open;
  $("options").setAttribute("aria-expanded", String(open));
  if (open) $("system").focus();
}

function choices(select, names, chosen) {
  select.replaceChildren(...names.map(([value, label]) => new Option(label, value, false, value === chosen)));
}

/** The adapters of the model that is chosen. */
function adapterChoices() {
  const names = adapters.filter(({ model }) => model === $("model").value).map(({ id }) => [id, id]);
  $("adapter-label").hidden = !names.length;
  choices($("adapter"), [["", "none"], ...names], settings.adapter);
}

async function models() {
  try {
    const list = await ask("v1/models");
    choices($("model"), (list?.data ?? []).map(({ id }) => [id, id]), settings.model);
    say("");
    const known = await ask("v1/adapters").catch(() => null);
    adapters = known?.data ?? [];
    adapterChoices();
  } catch (error) {
    say(error.message);
  }
}

// Keys

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
  if (event.key === "ArrowUp" && !input.value) {
    const last = conversations.path().findLast((index) => conversations.node(index).role === "user");
    if (last !== undefined) {
      event.preventDefault();
      edit(last);
    }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    stop();
    openSide(false);
  }
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const last = conversations.path().findLast((index) => conversations.node(index).role === "assistant");
  if (event.code === "KeyN") begin();
  else if (event.code === "KeyS") showSettings();
  else if (event.code === "KeyR" && last !== undefined) again(last);
  else return;
  event.preventDefault();
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = input.value.trim();
  if (!content || running) return;
  input.value = "";
  grow();
  reply(conversations.append(conversations.path().at(-1) ?? 0, { role: "user", content }));
});
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", begin);
$("export").addEventListener("click", exportTalk);
$("clear").addEventListener("click", () => {
  if (!confirm("Delete all conversations of this browser?")) return;
  stop();
  conversations.clear();
  show();
});
$("menu").addEventListener("click", () => openSide(!$("side").classList.contains("open")));
$("options").addEventListener("click", showSettings);

bindSettings();
show();
models();
