// Markdown as nodes of the page. What a model writes becomes text of nodes and nothing else: there is no HTML in between that could
// be taken for the page's own. The page's policy forbids that way too (Trusted Types).

const BLOCKS = [
  [/^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^\n]*$/, fence],
  [/^ {0,3}(#{1,6})\s+(.*?)\s*#*$/, heading],
  [/^ {0,3}([-*_])(?:\s*\1){2,}\s*$/, (at) => [element("hr"), at + 1]],
  [/^ {0,3}>/, quote],
  [/^\s*(?:[-*+]|\d{1,9}[.)])\s+/, list],
];

// Nodes are no deeper than this: a text of ten thousand `>` is no reason to run out of stack.
const DEPTH = 12;

export function render(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replaceAll("\r\n", "\n").split("\n"), 0));
  return fragment;
}

export function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function blocks(lines, depth) {
  const nodes = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) nodes.push(element("p", ...inline(paragraph.join("\n"), depth)));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    if (!line.trim()) {
      flush();
      at += 1;
      continue;
    }
    const found = depth < DEPTH && BLOCKS.find(([pattern]) => pattern.test(line));
    if (found) {
      flush();
      const [node, next] = found[1](at, lines, line.match(found[0]), depth);
      nodes.push(node);
      at = next;
    } else if (depth < DEPTH && isTable(lines, at)) {
      flush();
      const [node, next] = table(at, lines, depth);
      nodes.push(node);
      at = next;
    } else {
      paragraph.push(line);
      at += 1;
    }
  }
  flush();
  return nodes;
}

function fence(at, lines, [, mark, language]) {
  const rest = lines.slice(at + 1);
  const end = rest.findIndex((line) => line.trim().startsWith(mark) && !line.trim().slice(mark.length).trim());
  // A block that is still being written has no end yet.
  const code = (end < 0 ? rest : rest.slice(0, end)).join("\n");
  return [codeBlock(code, language), end < 0 ? lines.length : at + end + 2];
}

export function codeBlock(code, language) {
  const box = element("div");
  box.className = "code";
  const name = element("div", language || "text");
  name.className = "name";
  const copy = element("button", "Copy");
  copy.className = "copy";
  copy.type = "button";
  copy.addEventListener("click", () => navigator.clipboard?.writeText(code).then(() => (copy.textContent = "Copied")));
  box.append(name, copy, element("pre", element("code", ...coloured(code))));
  return box;
}

const PIECES = new RegExp(
  [
    /(?<c>\/\/[^\n]*|#(?![[!])[^\n]*|\/\*[^]*?\*\/)/,
    /(?<s>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)/,
    /(?<n>\b\d[\w.]*\b)/,
    /(?<k>\b(?:async|await|break|case|class|const|continue|def|do|elif|else|enum|export|false|fn|for|from|func|function|if|impl|import|in|let|loop|match|mod|mut|new|nil|None|not|null|pub|return|self|static|struct|switch|this|throw|trait|True|False|true|try|type|use|var|void|where|while|with|yield)\b)/,
  ].map((pattern) => pattern.source).join("|"),
  "g",
);

// Comments, strings, numbers and words that most languages share. Long code is left plain.
function coloured(code) {
  if (code.length > 20000) return [code];
  const nodes = [];
  let last = 0;
  for (const match of code.matchAll(PIECES)) {
    nodes.push(code.slice(last, match.index));
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    const piece = element("span", match[0]);
    piece.className = kind;
    nodes.push(piece);
    last = match.index + match[0].length;
  }
  nodes.push(code.slice(last));
  return nodes;
}

function heading(at, lines, [, marks, text], depth) {
  return [element(`h${marks.length}`, ...inline(text, depth)), at + 1];
}

function quote(at, lines, match, depth) {
  let end = at;
  while (end < lines.length && lines[end].trim()) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return [element("blockquote", ...blocks(inner, depth + 1)), end];
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

function list(at, lines, match, depth) {
  const first = lines[at].match(ITEM);
  if (!first) return [element("p", lines[at]), at + 1];
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(first[2], 10);
  let item = null;
  while (at < lines.length) {
    const found = lines[at].match(ITEM);
    if (found && found[1].length <= indent + 1) {
      if (found[1].length < indent || /\d/.test(found[2]) !== ordered) break;
      if (item) node.append(element("li", ...tight(blocks(item, depth + 1))));
      item = [found[3]];
    } else if (lines[at].trim() && !/^\s/.test(lines[at]) && !lines[at - 1].trim()) {
      break;
    } else {
      item.push(lines[at].replace(new RegExp(`^\\s{0,${indent + first[2].length + 1}}`), ""));
    }
    at += 1;
  }
  if (item) node.append(element("li", ...tight(blocks(item, depth + 1))));
  return [node, at];
}

// An item of one paragraph is its words.
function tight(nodes) {
  return nodes.flatMap((node, i) => (i === 0 && node.tagName === "P" ? [...node.childNodes] : [node]));
}

const RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && RULE.test(lines[at + 1]);
}

function table(at, lines, depth) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, name) => element("tr", ...cells(line).map((cell) => element(name, ...inline(cell, depth))));
  const node = element("table", element("thead", row(lines[at], "th")));
  const body = element("tbody");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) body.append(row(lines[at], "td"));
  node.append(body);
  const box = element("div", node);
  box.className = "table";
  return [box, at];
}

const INLINE = new RegExp(
  [
    /(?<escape>\\[!-/:-@[-`{-~])/,
    /(?<code>(?<!`)(?<ticks>`+)(?!`)(?<inner>[^]{0,5000}?[^`])\k<ticks>(?!`))/,
    /(?<link>!?\[(?<name>[^\]\n]{1,300})\]\((?<to>[^\s()]{1,2000})\))/,
    /(?<url>\bhttps?:\/\/[^\s<>()[\]"'`]{1,2000}[^\s<>()[\]"'`.,;:!?])/,
    /(?<strong>\*\*(?=\S)(?<bold>[^]{1,5000}?\S)\*\*)/,
    /(?<em>(?<![\w*])\*(?=[^\s*])(?<slant>[^*\n]{1,2000}?)(?<=\S)\*(?!\w))/,
    /(?<under>(?<!\w)_(?=\S)(?<low>[^_\n]{1,2000}?)(?<=\S)_(?!\w))/,
    /(?<del>~~(?=\S)(?<gone>[^\n]{1,2000}?)~~)/,
    /(?<br> {2,}\n|\\\n)/,
  ].map((pattern) => pattern.source).join("|"),
  "g",
);

function inline(text, depth) {
  if (depth >= DEPTH) return [text];
  const nodes = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    const group = match.groups;
    nodes.push(text.slice(last, match.index));
    last = match.index + match[0].length;
    if (group.escape) nodes.push(group.escape[1]);
    else if (group.code) nodes.push(element("code", group.inner.replace(/^ (.*[^ ].*) $/, "$1")));
    else if (group.link) nodes.push(link(group.to, inline(group.name, depth + 1), match[0]));
    else if (group.url) nodes.push(link(group.url, [group.url], match[0]));
    else if (group.strong) nodes.push(element("strong", ...inline(group.bold, depth + 1)));
    else if (group.em) nodes.push(element("em", ...inline(group.slant, depth + 1)));
    else if (group.under) nodes.push(element("em", ...inline(group.low, depth + 1)));
    else if (group.del) nodes.push(element("del", ...inline(group.gone, depth + 1)));
    else nodes.push(element("br"));
  }
  nodes.push(text.slice(last));
  return nodes.filter((node) => node !== "");
}

// Only to where a click can do no harm; everything else is shown as it was written.
function link(to, children, raw) {
  if (!/^(https?:\/\/|mailto:)/i.test(to)) return raw;
  const node = element("a", ...children);
  node.href = to;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}
