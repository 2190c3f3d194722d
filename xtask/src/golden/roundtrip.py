"""What Python mlx-lm says of the folders that mlxlm wrote, and the same folders written by Python.

usage: roundtrip.py WORK

WORK holds `seed` (models in float32) and `ours` (conversions, a fine-tune and a prompt cache of them), as the test
mlxlm-cli/tests/roundtrip leaves them. Adds `theirs`, and `roundtrip.json`: the text that each folder gives.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm import convert, load, stream_generate
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import save_config

# What `mlxlm convert` was given for the same form.
FORMS = {
    "q4": {"quantize": True, "q_bits": 4, "q_group_size": 32, "dtype": "float32"},
    "mxfp4": {"quantize": True, "q_mode": "mxfp4", "dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "f32": {"dtype": "float32"},
}
PROMPTS = [
    f"{how} {what}"
    for how in ("The old", "A small", "My green", "No other", "Every tall", "One quiet", "That far", "This warm")
    for what in ("house", "river", "dog", "friend", "song", "road", "garden", "king")
]
MAX_TOKENS = 16
# How far the best token must be ahead of the second, in standard deviations of the logits, to be told apart for sure.
LEAD = {"bf16": 0.15}
USUAL_LEAD = 0.01
CACHED, ASKED = "Tell me of the sea", " in winter"


def leads(response):
    logits = np.array(response.logprobs.astype(mx.float32))
    second, best = np.sort(logits)[-2:]
    return (best - second) / logits.std()


def sure_tokens(model, tokenizer, prompt, lead):
    """The tokens that follow, up to the first that is not well ahead."""
    tokens = []
    for response in stream_generate(model, tokenizer, prompt, max_tokens=MAX_TOKENS):
        if leads(response) < lead:
            break
        tokens.append(response.token)
    return tokens


def text(model, tokenizer, prompt, count):
    return "".join(r.text for r in stream_generate(model, tokenizer, prompt, max_tokens=count))


def longest(model, tokenizer, lead):
    """The prompt that is followed by the most tokens that are well ahead, and those."""
    found = ((prompt, sure_tokens(model, tokenizer, prompt, lead)) for prompt in PROMPTS)
    return max(found, key=lambda pair: len(pair[1]))


def entry(folder, adapter=None, cache=None, **said):
    return {"model": folder, "adapter": adapter, "cache": cache, **said}


def converted(name):
    """Our folder and Python's, which must say the same."""
    model, form = name.rsplit("-", 1)
    convert(f"seed/{model}", f"theirs/{name}", **FORMS[form])
    lead = LEAD.get(form, USUAL_LEAD)
    ours = load(f"ours/{name}")
    prompt, tokens = longest(*ours, lead)
    said = {"prompt": prompt, "text": text(*ours, prompt, len(tokens)), "tokens": tokens, "max_tokens": len(tokens)}
    theirs = load(f"theirs/{name}")
    again = sure_tokens(*theirs, prompt, lead)[: len(tokens)]
    if again != tokens:
        sys.exit(f"{name}: our folder says {tokens}, Python's {again}")
    return [entry(f"{side}/{name}", **said) for side in ("ours", "theirs")]


def make_adapter(folder):
    parameters = {"rank": 2, "scale": 4.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
    model, _ = load("seed/llama")
    model.freeze()
    linear_to_lora_layers(model, 1, parameters)
    mx.random.seed(0)
    draw = lambda path, x: mx.random.normal(x.shape) * 0.1 if path.endswith("lora_b") else x
    weights = dict(tree_flatten(tree_map_with_path(draw, model.trainable_parameters())))
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    save_config(config, folder / "adapter_config.json")


def adapted(side):
    model, tokenizer = load("seed/llama", adapter_path=f"{side}/adapter")
    prompt, tokens = longest(model, tokenizer, USUAL_LEAD)
    said = {"prompt": prompt, "text": text(model, tokenizer, prompt, len(tokens)), "tokens": tokens}
    return entry("seed/llama", adapter=f"{side}/adapter", **said, max_tokens=len(tokens))


def mlx_lm(*args):
    command = [sys.executable, "-m", "mlx_lm", *args]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


def cached(side):
    model, cache = f"{side}/llama-q4", f"{side}/cache.safetensors"
    if side == "theirs":
        mlx_lm("cache_prompt", "--model", model, "--prompt-cache-file", cache, "--prompt", CACHED)
    out = mlx_lm(
        *("generate", "--model", model, "--prompt-cache-file", cache, "--prompt", ASKED),
        *("--max-tokens", str(MAX_TOKENS), "--verbose", "False"),
    )
    said = {"prompt": ASKED, "text": out.removesuffix("\n"), "tokens": None, "max_tokens": MAX_TOKENS}
    return entry(model, cache=cache, **said)


def main():
    os.chdir(sys.argv[1])
    Path("theirs").mkdir()
    texts = []
    for folder in sorted(Path("ours").iterdir()):
        if (folder / "config.json").is_file():
            texts += converted(folder.name)
    make_adapter(Path("theirs/adapter"))
    texts += [adapted("ours"), adapted("theirs"), cached("ours"), cached("theirs")]
    made_with = {name: version(name) for name in ("mlx-lm", "mlx", "transformers")}
    record = {"command": "cargo xtask golden exchange", "made_with": made_with, "texts": texts}
    Path("roundtrip.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    shortest = min(texts, key=lambda one: one["max_tokens"])
    print(f"{len(texts)} texts, the shortest of {shortest['max_tokens']} tokens ({shortest['model']})")


main()
