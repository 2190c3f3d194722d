"""The chat page in a real browser, without a window, through its devtools protocol.

`cargo xtask test --clients` runs this too; where there is no Chromium it is skipped. With `MLXLM_SCREENSHOTS` set to a folder, pictures
of the page are left there.
"""

import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.request

import pytest
import websocket

URL = os.environ["MLXLM_URL"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


class Page:
    """A tab of the browser."""

    def __init__(self, socket):
        self.socket = socket
        self.ids = itertools.count(1)
        self.complaints = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.hear(message)

    def hear(self, event):
        """Keeps what the browser complains about, and what is asked of elsewhere."""
        params = event.get("params", {})
        if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            # Where there are no adapters to choose from there is no such route.
            if not params["entry"].get("url", "").endswith("/v1/adapters"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        if event["method"] == "Network.requestWillBeSent" and not params["request"]["url"].startswith((URL, "data:", "blob:")):
            self.complaints.append(f"asked {params['request']['url']}")

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"waited in vain for {expression}: {self.js('document.body.innerText')}"
            time.sleep(0.05)

    def open(self):
        self.call("Page.navigate", url=f"{URL}/")
        self.until("document.readyState === 'complete' && document.querySelector('#model')?.options.length > 0")

    def key(self, key, code=None, **params):
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 and not params.get("modifiers") else None)
        event = {"key": key, "code": code or key, "windowsVirtualKeyCode": {"Enter": 13, "Escape": 27, "ArrowUp": 38}.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **params, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **event, **params)

    def say(self, text):
        """Types a message and sends it."""
        self.js("document.querySelector('#input').focus()")
        self.call("Input.insertText", text=text)
        self.key("Enter")

    def answered(self):
        """Waits for the last answer to be whole, and gives its text."""
        self.until("document.querySelector('#stop').hidden && document.querySelector('.message.assistant:last-child .acts button')")
        return self.js("document.querySelector('.message.assistant:last-child .body').innerText")

    def press(self, label, within="body"):
        self.js(f"[...document.querySelectorAll('{within} button')].filter((b) => b.textContent === {json.dumps(label)}).at(-1).click()")

    def set(self, field, value):
        self.js(
            f"(() => {{ const f = document.querySelector('#{field}'); f.value = {json.dumps(value)};"
            "f.dispatchEvent(new Event('input')); f.dispatchEvent(new Event('change')); })()"
        )

    def messages(self):
        return self.js("[...document.querySelectorAll('.message')].map((m) => [m.className.split(' ')[1], m.querySelector('.body')?.innerText.trim()])")

    def shot(self, name, width=1200, height=800, scheme="light"):
        folder = os.environ.get("MLXLM_SCREENSHOTS")
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        time.sleep(0.3)
        # Nothing may stick out at the side.
        assert self.js("document.documentElement.scrollWidth <= innerWidth")
        if folder:
            data = self.call("Page.captureScreenshot")["data"]
            (pathlib.Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    home = tmp_path_factory.mktemp("chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
    command = [BROWSER, *options, f"--user-data-dir={home}", "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = home / "DevToolsActivePort"
    end = time.monotonic() + 60
    while not port.exists() or not port.read_text().strip():
        assert time.monotonic() < end and process.poll() is None, "the browser does not start"
        time.sleep(0.1)
    yield port.read_text().split()[0]
    process.terminate()
    process.wait()


@pytest.fixture
def page(browser):
    request = urllib.request.Request(f"http://127.0.0.1:{browser}/json/new?about:blank", method="PUT")
    target = json.load(urllib.request.urlopen(request))
    page = Page(websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60))
    page.open()
    page.js("localStorage.clear(); sessionStorage.clear()")
    page.open()
    yield page
    assert page.complaints == []
    page.socket.close()


def test_a_conversation(page):
    page.say("What is the capital of France?")
    assert "Paris" in page.answered()
    page.say("Tell me a story.")
    page.answered()
    assert [role for role, _ in page.messages()] == ["user", "assistant"] * 2
    note = page.js("document.querySelector('.message.assistant:last-child .acts').innerText")
    assert "tokens/s" in note and "known" in note
    page.shot("conversation")
    page.shot("dark", scheme="dark")
    page.shot("phone", width=390, height=844)
    # What was said is there after the page is loaded again.
    before = page.messages()
    page.open()
    assert page.messages() == before


def test_another_answer_and_an_edit_are_branches(page):
    page.set("temperature", "1")
    page.say("Tell me a story.")
    first = page.answered()
    page.set("seed", "7")
    page.key("r", code="KeyR", modifiers=1)
    page.until("document.querySelector('.message.assistant .acts')?.innerText.includes('2/2')")
    second = page.answered()
    page.press("‹")
    assert page.messages()[1][1] == first
    page.press("›")
    assert page.messages()[1][1] == second
    # The arrow in an empty message edits the last one.
    page.js("document.querySelector('#input').focus()")
    page.key("ArrowUp")
    page.js("document.activeElement.select()")
    page.call("Input.insertText", text="What is the capital of France?")
    page.shot("edit")
    page.key("Enter")
    assert "Paris" in page.answered()
    page.press("‹", ".message.user")
    assert page.messages()[0][1] == "Tell me a story." and page.messages()[1][1] == second


def test_an_answer_is_stopped(page):
    page.set("max_tokens", "900")
    page.set("temperature", "1.5")
    page.say("Tell me a very long story about a dog and a cat and a bird.")
    page.until("document.querySelector('.message.assistant .body')?.innerText.length > 10")
    page.key("Escape")
    assert page.answered()
    assert page.js("document.querySelector('#send').hidden") is False


def test_calls_are_shown_and_get_results(page):
    weather = {"name": "get_weather", "description": "Get the current weather for a city"}
    weather["parameters"] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    page.set("tools", json.dumps([{"type": "function", "function": weather}]))
    page.say("What is the weather in Paris?")
    page.until("document.querySelector('.result input')")
    shown = page.js("document.querySelector('details.call').innerText")
    assert "get_weather" in shown and '"city": "Paris"' in shown
    page.shot("call")
    page.js("document.querySelector('.result input').value = '{\"temperature\": 7, \"condition\": \"rainy\"}'")
    page.press("Send results")
    page.until("document.querySelectorAll('.message').length === 4")
    assert "rainy" in page.answered()


def test_errors_are_shown_and_settings_kept(page):
    page.key("s", code="KeyS", modifiers=1)
    assert page.js("document.querySelector('#settings').hidden") is False
    page.set("temperature", "1000")
    page.shot("settings")
    page.shot("settings-phone", width=390, height=844, scheme="dark")
    page.say("Tell me a story.")
    page.until("document.querySelector('.wrong')")
    assert "temperature" in page.js("document.querySelector('.wrong').innerText")
    page.complaints.clear()  # The browser notes an answer of 400.
    page.open()
    assert page.js("document.querySelector('#temperature').value") == "1000"


HOSTILE = """# Title <img src=x onerror="window.owned = 1">

<script>window.owned = 1</script> [click](javascript:window.owned=1) ![x](https://elsewhere.invalid/x.png)
**bold** *slanted* `code <b>` ~~gone~~ https://example.com/a_b_c and snake_case_name

- one
  - two
1. first

> quoted

| a | b |
|---|---|
| 1 | `x` |

```python
def f(x):  # comment
    return "<b>" + str(3)
```
"""


def test_what_a_model_writes_is_never_markup(page):
    tags = page.js(
        "import('/page/markdown.js').then(({ render }) => { const box = document.createElement('div');"
        f"box.className = 'body'; box.append(render({json.dumps(HOSTILE)})); document.querySelector('#talk').replaceChildren(box);"
        "return [...box.querySelectorAll('*')].map((node) => node.tagName); })"
    )
    page.shot("markdown")
    assert not {"SCRIPT", "IMG", "IFRAME"} & set(tags) and page.js("window.owned") is None
    wanted = {"H1", "STRONG", "EM", "CODE", "DEL", "UL", "OL", "LI", "BLOCKQUOTE", "TABLE", "TH", "TD", "PRE"}
    assert wanted <= set(tags), wanted - set(tags)
    assert page.js("[...document.querySelectorAll('.body a')].map((a) => a.href)") == ["https://elsewhere.invalid/x.png", "https://example.com/a_b_c"]
    assert page.js("document.querySelector('.body').innerText.includes('snake_case_name')")
    assert page.js("[...document.querySelectorAll('.body :not(pre) > code')].map((code) => code.textContent)") == ["code <b>", "x"]
    # Trees of any depth, and text that regular expressions could be slow on.
    for text in ("> " * 20000, "*" * 50000, "[" * 50000, "`" * 30001 + "a", "- " * 5000, "_a " * 20000, "\\" * 50000):
        took = page.js(
            f"import('/page/markdown.js').then(({{ render }}) => {{ const begin = performance.now(); render({json.dumps(text)});"
            "return performance.now() - begin; })"
        )
        assert took < 2000, (text[:5], took)


def test_the_browser_is_told_to_run_nothing_else(page):
    answer = urllib.request.urlopen(f"{URL}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    blocked = page.js(
        "(() => { try { document.createElement('div').innerHTML = '<b>'; return false; } catch (error) { return error instanceof TypeError; } })()"
    )
    assert blocked
    page.complaints.clear()  # That it was blocked is noted.
