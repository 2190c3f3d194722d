"""Load on a server of OpenAI's API: many clients that ask for completions in a stream, one after the other.

`load.py URL PID CLIENTS ROUNDS TOKENS` prints JSON: tokens a second over all, the median seconds to the first piece of text, the worst
pause within a stream, and the share of a core that the process takes when nobody asks.
"""

import http.client
import json
import os
import statistics
import sys
import threading
import time
import urllib.parse

# Prompts of 64 to 512 words, each with a beginning of its own, so that nothing is known of it.
LENGTHS = [64, 96, 128, 192, 256, 320, 384, 512]


def ask(url, number, tokens):
    """Seconds to the first text, the longest pause after it, and how many tokens came."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=600)
    words = LENGTHS[number % len(LENGTHS)]
    prompt = f"Story {number}:" + " once upon a time" * (words // 4)
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    begin = last = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    first, pause, count = None, 0.0, 0
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        now = time.perf_counter()
        choices = json.loads(line[6:]).get("choices")
        if not choices or not choices[0].get("text"):
            continue
        if first is None:
            first = now - begin
        else:
            pause = max(pause, now - last)
        last = now
        count += 1
    connection.close()
    return first, pause, count


def load(url, clients, rounds, tokens):
    figures, lock = [], threading.Lock()

    def client(i):
        for r in range(rounds):
            figure = ask(url, r * clients + i, tokens)
            with lock:
                figures.append(figure)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    firsts = [first for first, _, _ in figures if first is not None]
    return {
        "requests": len(figures),
        "tokens_per_second": sum(count for _, _, count in figures) / took,
        "median_first_s": statistics.median(firsts),
        "worst_pause_s": max(pause for _, pause, _ in figures),
    }


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(pid, seconds=5):
    before = processor_seconds(pid)
    time.sleep(seconds)
    return (processor_seconds(pid) - before) / seconds


if __name__ == "__main__":
    url, pid, clients, rounds, tokens = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:6])
    # The first request pays for what is made once.
    ask(url, 10**6, 4)
    said = load(url, clients, rounds, tokens)
    said["one_tokens_per_second"] = load(url, 1, 3, 4 * tokens)["tokens_per_second"]
    said["idle_core_share"] = idle(pid)
    print(json.dumps(said))
