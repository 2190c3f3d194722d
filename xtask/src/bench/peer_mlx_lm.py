"""Python mlx-lm, for `cargo xtask bench`.

    peer_mlx_lm.py version
    peer_mlx_lm.py run FOLDER TOKENS

`run` prints one JSON object: tokens a second after the first, of TOKENS that follow a prompt of one.
"""

import json
import sys
import time


def version():
    from importlib.metadata import version

    return {"version": version("mlx-lm"), "mlx": version("mlx")}


def run(folder, count):
    from pathlib import Path

    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    times = []
    for _ in generate_step(mx.array([1]), model, max_tokens=count):
        times.append(time.perf_counter())
    return {"generation_tps": (len(times) - 1) / (times[-1] - times[0])}


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    print(json.dumps(version() if command == "version" else run(args[0], int(args[1]))))
