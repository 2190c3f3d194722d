"""lm-evaluation-harness asks a server of mlxlm: `harness.py URL TOKENIZER_FOLDER TASK_FOLDER` prints its results as JSON.

The tasks are those beside this file that a server can answer as `mlxlm evaluate` does. Of texts as a whole (`loglikelihood_rolling`) the
harness scores the first token too where it asks a server, which mlx-lm and `mlxlm evaluate` do not.
"""

import contextlib
import json
import sys

import lm_eval
from lm_eval.tasks import TaskManager

TASKS = ["capitals_choice", "capitals_word", "sums"]


def main():
    url, tokenizer, folder = sys.argv[1:]
    settings = {
        "model": "demo",
        "base_url": f"{url}/v1/completions",
        "tokenizer": tokenizer,
        "tokenizer_backend": "huggingface",
        "num_concurrent": 1,
        "max_retries": 1,
    }
    with contextlib.redirect_stdout(sys.stderr):
        found = lm_eval.simple_evaluate(
            model="local-completions",
            model_args=settings,
            tasks=TASKS,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            fewshot_random_seed=1234,
            batch_size=4,
            bootstrap_iters=0,
        )
    print(json.dumps(found["results"]))


main()
