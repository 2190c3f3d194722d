"""What Python mlx-lm makes of tiny models by GPTQ, AWQ, dynamic quantization and DWQ: run in a Python with mlx-lm 0.32.2.

usage: record.py

Writes into each folder beside it that has a `config.json`: `weights.json` (the recipe of the weights) and `expected.safetensors`.
"""

import json
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "xtask/src/golden"))
import record as golden  # noqa: E402
from mlx_lm.quant import awq, dwq, dynamic_quant, gptq  # noqa: E402
from mlx_lm.utils import _get_classes, quantize_model  # noqa: E402

SEED, SAMPLES, LENGTH, GROUP = 11, 8, 33, 32


def draw_of(name, value):
    """As in other cases, but norms differ by channel, so that there is something to scale."""
    return ["uniform", 0.2, 3.0] if "norm" in name else golden.draw_of(name, value)


def weights_of(config, folder):
    model_class, args_class = _get_classes(config)
    parameters = tree_flatten(model_class(args_class.from_dict(dict(config))).parameters())
    recipe = [{"name": k, "shape": list(v.shape), "draw": draw_of(k, v), "dtype": "float32"} for k, v in parameters]
    lines = ",\n".join(json.dumps(tensor) for tensor in recipe)
    (folder / "weights.json").write_text(f'{{"seed": {SEED}, "salt": 0, "tensors": [\n{lines}\n]}}\n')
    return {r["name"]: golden.values(SEED, 0, r["name"], r["shape"], r["draw"]) for r in recipe}


def packed(model, head):
    """All parameters of a model, under a heading."""
    return {f"{head}:{name}": array for name, array in tree_flatten(model.parameters())}


def record(folder):
    config = json.loads((folder / "config.json").read_text())
    weights = weights_of(config, folder)
    fresh = lambda: golden.loaded(config, weights)
    rng = np.random.default_rng(SEED)
    tokens = mx.array(rng.integers(0, config["vocab_size"], (SAMPLES, LENGTH - 1)).astype(np.int32))
    out, facts = {"tokens": tokens}, {}

    for bits in (2, 4, 8):
        model, _ = gptq.gptq_quantize(fresh(), tokens, bits, GROUP, 6, GROUP, batch_size=4)
        out |= packed(model, f"gptq{bits}")

    if config["model_type"] == "llama":
        found = dynamic_quant.estimate_sensitivities(fresh(), tokens, 3, GROUP, 5, GROUP, batch_size=4)
        facts["sensitivities"] = json.dumps(found)
        threshold = dynamic_quant.estimate_threshold(fresh(), dict(found), 5.2, 3, GROUP, 5, GROUP)
        facts["high"] = json.dumps([path for path, value in found if value > threshold])
        facts["perplexity"] = str(dynamic_quant.eval_ppl(fresh(), tokens, batch_size=4))

        model = fresh()
        awq.awq_quantize(
            model, tokens, awq.AWQ_MODEL_CONFIGS["llama"], group_size=GROUP, bits=3, embed_group_size=GROUP, embed_bits=4
        )
        out |= packed(model, "awq")

        teacher, student = fresh(), fresh()
        quantize_model(student, dict(config), GROUP, 3)
        texts = [(rng.integers(0, config["vocab_size"], LENGTH).tolist(), 0) for _ in range(SAMPLES)]
        seen = {"train": [], "valid": []}

        def target_fn(batch, idx, split):
            if idx == len(seen[split]):
                seen[split].append(batch)
            return teacher(batch)

        opt = optimizers.Adam(learning_rate=1e-3, bias_correction=True)
        dwq.dwq_quantize(
            student, target_fn, opt, texts[2:], texts[:2], batch_size=2, max_seq_length=LENGTH, seed=SEED, dtype=mx.float32
        )
        out |= packed(student, "dwq")
        out |= {f"dwq:{split}": mx.stack(batches).astype(mx.int32) for split, batches in seen.items()}

    mx.save_safetensors(str(folder / "expected.safetensors"), {k: v for k, v in out.items()}, facts)


for config in sorted(HERE.glob("*/config.json")):
    record(config.parent)
