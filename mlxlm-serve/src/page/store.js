// Conversations, kept in this browser. A conversation is a tree: an edited message or another answer is a branch beside the first,
// and the path that is shown goes through the branch that was chosen last.

const KEY = "mlxlm.conversations";
const SETTINGS = "mlxlm.settings";

function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

// Whether it could be kept: browsers have little room, and private windows may have none.
function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const settings = read(SETTINGS, {});
export const keepSettings = () => write(SETTINGS, settings);

export class Conversations {
  constructor() {
    this.all = read(KEY, []);
    this.current = this.all[0] ?? this.add();
  }

  add() {
    // One that nothing was said in is as good as a new one.
    const empty = this.all.find((one) => one.nodes.length === 1);
    this.current = empty ?? { id: crypto.randomUUID?.() ?? String(Date.now()), title: "", nodes: [{ parent: null, children: [], chosen: 0 }] };
    if (!empty) this.all.unshift(this.current);
    return this.current;
  }

  remove(one) {
    this.all = this.all.filter((other) => other !== one);
    if (this.current === one) this.current = this.all[0] ?? this.add();
    return this.keep();
  }

  clear() {
    this.all = [];
    this.add();
    return this.keep();
  }

  keep() {
    return write(KEY, this.all);
  }

  node(index) {
    return this.current.nodes[index];
  }

  // Adds a message below another, and chooses it.
  append(parent, message) {
    const nodes = this.current.nodes;
    const index = nodes.push({ ...message, parent, children: [], chosen: 0 }) - 1;
    const above = nodes[parent];
    above.chosen = above.children.push(index) - 1;
    if (!this.current.title && message.role === "user") this.current.title = message.content.slice(0, 60);
    return index;
  }

  // The indices of the messages that are shown, from the first to the last.
  path() {
    const path = [];
    for (let node = this.node(0); node.children.length; node = this.node(path.at(-1))) {
      path.push(node.children[node.chosen]);
    }
    return path;
  }

  // The messages above one, as the server takes them.
  before(index) {
    const messages = [];
    for (let at = this.node(index).parent; at; at = this.node(at).parent) messages.unshift(wire(this.node(at)));
    return messages;
  }

  // Which of its branches a message is: the number and how many there are.
  branch(index) {
    const { children } = this.node(this.node(index).parent);
    return [children.indexOf(index), children.length];
  }

  choose(index, step) {
    const above = this.node(this.node(index).parent);
    above.chosen = (above.chosen + step + above.children.length) % above.children.length;
  }
}

function wire({ role, content, calls, call }) {
  if (role === "tool") return { role, tool_call_id: call, content };
  if (role === "assistant" && calls?.length) {
    const tool_calls = calls.map(({ id, name, text }) => ({ id, type: "function", function: { name, arguments: text } }));
    return { role, content: content || null, tool_calls };
  }
  return { role, content };
}
