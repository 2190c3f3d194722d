"""Two replicas behind a router, by the files in `deploy`, one of which is killed under load.

`MLXLM_BIN` is the server's program. No request may be lost that had not begun to be answered.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

BIN = os.environ["MLXLM_BIN"]
DEPLOY = pathlib.Path(__file__).resolve().parents[3] / "deploy"
PROGRAMS = pathlib.Path(sys.executable).parent


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status, answer.read()


def until_ready(url, process, seconds=120):
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"it ended before {url} was ready"
        with contextlib.suppress(OSError):
            if get(url)[0] == 200:
                return
        assert time.monotonic() < end, f"waited in vain for {url}"
        time.sleep(0.2)


@contextlib.contextmanager
def running(command, url, log, **options):
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options)
    try:
        until_ready(url, process)
        yield process
    except AssertionError:
        print(log.read_text()[-4000:])
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def replicas(tmp_path):
    with contextlib.ExitStack() as stack:
        replicas = []
        for i in range(2):
            port = free_port()
            command = [BIN, "server", "--model", "demo", "--port", str(port), "--threads", "1"]
            process = stack.enter_context(running(command, f"http://127.0.0.1:{port}/ready", tmp_path / f"replica{i}.log"))
            replicas.append((port, process))
        yield replicas


def ask(url, model, i, stream=False):
    body = {"model": model, "max_tokens": 40, "stream": stream, "messages": [{"role": "user", "content": f"Tell me story {i}."}]}
    headers = {"content-type": "application/json", "authorization": "Bearer unused"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read().decode()
    if stream:
        assert text.rstrip().endswith("data: [DONE]"), text[-300:]
        return text
    return json.loads(text)["choices"][0]["message"]["content"]


def served(port):
    page = get(f"http://127.0.0.1:{port}/metrics")[1].decode()
    return float(re.search(r"^mlxlm_requests_done_total\S* (\S+)", page, re.M)[1])


def bear(url, model, replicas):
    """Asks much at a time, and kills a replica in the middle of it."""
    alone = ask(url, model, 0)
    assert alone and ask(url, model, 0, stream=True)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, url, model, i % 20) for i in range(60)]
        # Both have work when it happens.
        end = time.monotonic() + 60
        while min(served(port) for port, _ in replicas) < 3:
            assert time.monotonic() < end, "one of the replicas is asked nothing"
            time.sleep(0.05)
        replicas[0][1].kill()
        texts = [answer.result() for answer in answers]
    assert len(texts) == 60 and all(texts)
    # The text does not depend on who answers.
    assert texts[0] == texts[20] == texts[40] == alone


def test_litellm(replicas, tmp_path):
    port = free_port()
    config = (DEPLOY / "litellm.yaml").read_text()
    for old, (new, _) in zip(("8081", "8082"), replicas):
        assert f"http://127.0.0.1:{old}/v1" in config
        config = config.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    file = tmp_path / "litellm.yaml"
    file.write_text(config)
    command = [PROGRAMS / "litellm", "--config", file, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLXLM_API_KEY": "unused", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/health/liveliness", tmp_path / "litellm.log", env=environment):
        bear(url, "local", replicas)


def test_sglang_gateway(replicas, tmp_path):
    port = free_port()
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    workers = " ".join(f"http://127.0.0.1:{port}" for port, _ in replicas)
    environment = {**os.environ, "PATH": path, "PORT": str(port), "WORKERS": workers}
    url = f"http://127.0.0.1:{port}"
    command = [DEPLOY / "sglang-gateway.sh", "--prometheus-port", str(free_port())]
    with running(command, f"{url}/health", tmp_path / "gateway.log", env=environment):
        bear(url, "demo", replicas)
