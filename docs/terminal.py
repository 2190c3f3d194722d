"""Makes docs/terminal.md: runs mlxlm in tmux, at 80 and at 40 columns, and keeps what the screen shows.

    python3 docs/terminal.py target/release/mlxlm

needs tmux and nothing else: models come from the built-in one and from a hub on the loopback interface.
"""

import hashlib
import http.server
import json
import os
import pathlib
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import threading
import time

REPO, COMMIT = "org/demo-4bit", "c0ffee00" * 5
ROWS = 40
PATIENCE_S = 60


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download uses, with a slow line."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}
    bytes_per_s = 400_000

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        if path.startswith(f"/api/models/{REPO}/revision/"):
            self.answer(200, json.dumps({"id": REPO, "sha": COMMIT}).encode())
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            self.answer(200, json.dumps([self.listed(name) for name in self.files]).encode())
        elif path.startswith("/large/"):
            body = next(body for body in self.files.values() if hashlib.sha256(body).hexdigest() == path[7:])
            self.answer(200, body, slow=True)
        elif name not in self.files:
            self.answer(404, b'{"error": "Entry not found"}')
        elif name.endswith(".safetensors"):
            oid, size = hashlib.sha256(self.files[name]).hexdigest(), len(self.files[name])
            head = {"Location": f"{endpoint(self.server)}/large/{oid}", "X-Linked-Etag": f'"{oid}"', "X-Linked-Size": size}
            self.answer(302, b"", head)
        else:
            self.answer(200, self.files[name], {"ETag": f'"{git_hash(self.files[name])}"'})

    def listed(self, name):
        body = self.files[name]
        entry = {"type": "file", "path": name, "oid": git_hash(body), "size": len(body)}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return entry

    def answer(self, status, body, head=None, slow=False):
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, "Content-Length": len(body), **(head or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        step = self.bytes_per_s // 20 if slow else max(len(body), 1)
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            time.sleep(0.05 if slow else 0)


def git_hash(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def endpoint(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


class Terminal:
    """A shell in tmux."""

    def __init__(self, home, columns, environment):
        self.tmux = ["tmux", "-L", f"mlxlm-docs-{os.getpid()}", "-f", "/dev/null"]
        words = ["env", "-i", *[f"{key}={value}" for key, value in environment.items()], "bash", "--norc", "--noprofile"]
        size = ["-x", str(columns), "-y", str(ROWS)]
        self.run("new-session", "-d", *size, "-c", str(home), shlex.join(words))
        self.run("set-option", "-g", "status", "off")
        self.run("resize-window", *size)
        self.wait("$")

    def run(self, *words):
        return subprocess.run([*self.tmux, *words], check=True, capture_output=True, text=True).stdout

    def screen(self):
        lines = [line.rstrip() for line in self.run("capture-pane", "-p").splitlines()]
        return "\n".join(lines).strip("\n")

    def keys(self, text):
        self.run("send-keys", "-l", text)
        self.run("send-keys", "Enter")

    def wait(self, pattern):
        """The screen as soon as the pattern is found on it."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            screen = self.screen()
            if re.search(pattern, screen):
                return screen
            time.sleep(0.02)
        raise SystemExit(f"`{pattern}` did not come:\n{self.screen()}")

    def command(self, text):
        """Runs a command on an empty screen; what is there when the prompt is back."""
        self.clear()
        self.keys(text)
        return self.wait(r"\n\$ ?$").removesuffix("$").rstrip()

    def clear(self):
        self.run("send-keys", "C-l")
        self.wait(r"^\$ ?$")

    def close(self):
        self.run("kill-server")


def make_model(folder, source):
    """A model of 300 MB with the tokenizer of `source`, so that there is something to wait for."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization", None)
    config.pop("quantization_config", None)
    hidden, layers, wide, vocab = 1024, 12, 3072, config["vocab_size"]
    config |= {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": wide}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        (folder / name).write_bytes((source / name).read_bytes())
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"]:
            shapes[f"model.layers.{layer}.self_attn.{name}.weight"] = [hidden, hidden]
        for name, shape in {"gate_proj": [wide, hidden], "up_proj": [wide, hidden], "down_proj": [hidden, wide]}.items():
            shapes[f"model.layers.{layer}.mlp.{name}.weight"] = shape
        for name in ["input_layernorm", "post_attention_layernorm"]:
            shapes[f"model.layers.{layer}.{name}.weight"] = [hidden]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(0, end, 1 << 20):
            file.write(b"\x3c" * (1 << 20))
        file.truncate(8 + len(text) + end)


def pictures(home, columns, environment):
    """Titles and screens at a width."""
    terminal = Terminal(home, columns, environment)
    yield "generate", terminal.command('mlxlm generate --model demo -p "Tell me a story."')
    terminal.clear()
    terminal.keys('mlxlm chat --model demo --system-prompt "You are the demo model of the forest, and you are brief."')
    terminal.wait("›")
    for line in ["/help", "What is the capital of France?", "/set temp 0.7"]:
        before = terminal.screen().count("›")
        terminal.keys(line)
        until = time.monotonic() + PATIENCE_S
        while terminal.screen().count("›") <= before and time.monotonic() < until:
            time.sleep(0.05)
    terminal.keys("/quit")
    yield "chat", terminal.wait(r"\n\$ ?$").removesuffix("$").rstrip()
    terminal.clear()
    terminal.keys("mlxlm convert --model large -q --mlx-path large-4bit")
    yield "convert, at work", terminal.wait("writing tensor")
    yield "convert, at its end", terminal.wait(r"\n\$ ?$").removesuffix("$").rstrip()
    terminal.clear()
    terminal.keys(f"mlxlm generate --model {REPO} -p hello")
    terminal.wait("[█━#]")
    time.sleep(2)
    yield "a download, at work", terminal.screen()
    yield "a download, at its end", terminal.wait(r"\n\$ ?$").removesuffix("$").rstrip()
    yield "mistakes", "\n\n".join(
        terminal.command(line)
        for line in ["mlxlm generate --max 7", "mlxlm genrate", "mlxlm convert --model demo --q-bits 4", "mlxlm generate --model nowhere"]
    )
    terminal.close()


HEAD = """# What it looks like

Screens of `mlxlm` in a terminal of 80 and of 40 columns. This page is made by

    python3 docs/terminal.py target/release/mlxlm

which runs the commands in tmux. Times and rates are those of the machine that made it.
"""


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    text = HEAD
    for columns in [80, 40]:
        with tempfile.TemporaryDirectory() as name:
            home = pathlib.Path(name)
            (home / "bin").mkdir()
            (home / "bin/mlxlm").symlink_to(binary)
            environment = {"HOME": home, "PATH": f"{home}/bin:/usr/bin:/bin", "TERM": "screen-256color", "LANG": "C.UTF-8", "PS1": "$ "}
            subprocess.run([binary, "show", "demo"], env={"HOME": str(home)}, check=True, capture_output=True)
            demo = next(home.glob(".cache/mlxlm/demo-[0-9a-f]*"))
            Hub.files = {path.name: path.read_bytes() for path in sorted(demo.iterdir()) if path.is_file() and not path.name.startswith(".")}
            make_model(home / "large", demo)
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            environment["HF_ENDPOINT"] = endpoint(server)
            text += f"\n## {columns} columns\n"
            for title, screen in pictures(home, columns, environment):
                screen = screen.replace(endpoint(server), "https://huggingface.co").replace(str(home), "~")
                text += f"\n### {title}\n\n```text\n{screen}\n```\n"
            server.shutdown()
    pathlib.Path(__file__).with_name("terminal.md").write_text(text)


if __name__ == "__main__":
    main()
