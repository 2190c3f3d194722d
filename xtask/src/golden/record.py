"""A golden case of a configuration: weights drawn from a seed by name, and the logits that Python mlx-lm computes.

usage: record.py CONFIG FOLDER [--seed N]

Writes into FOLDER: `config.json`, `weights.json` (the recipe from which mlxlm draws the same weights; see
mlxlm-core/src/weights/recipe.rs) and `expected.safetensors` (tokens and logits; its metadata has what tolerances follow from).
"""

import argparse
import json
import math
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import deepseek_v32
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes, load_model

TOKENS, PREFILL = 12, 7
# A case is drawn anew while a small change of the weights moves its logits far: two experts are nearly equal then.
STEADY, ATTEMPTS = {1e-6: 1e-3, 1e-4: 3e-2}, 8
STEP = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1


def mix(x):
    """The finalizer of splitmix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = ((x ^ (x >> shift)) * factor) & WORD
    return x


def mixed(x):
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x


def draws(seed, salt, name, count):
    """64-bit numbers that belong to a name."""
    key = mix((mix((mix(seed) + salt) & WORD) + zlib.crc32(name.encode())) & WORD)
    with np.errstate(over="ignore"):
        return mixed(np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(STEP))


def uniform(numbers):
    return ((numbers >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def normal(seed, salt, name, count):
    return (uniform(draws(seed, salt, name, 4 * count)).reshape(count, 4).sum(axis=1) - 2.0) * math.sqrt(3.0)


def values(seed, salt, name, shape, draw):
    kind, *given = draw
    count = math.prod(shape)
    if kind == "normal":
        out = given[0] + given[1] * normal(seed, salt, name, count)
    elif kind == "fan_in":
        out = normal(seed, salt, name, count) * min(0.25, max(0.02, given[0] / math.sqrt(shape[-1])))
    else:
        between = given[0] + (given[1] - given[0]) * uniform(draws(seed, salt, name, count))
        out = {"uniform": lambda x: x, "log_uniform": np.log, "inv_softplus": lambda x: np.log(np.expm1(x))}[kind](between)
    return out.reshape(shape).astype(np.float32)


def draw_of(name, value):
    """What a parameter is drawn from: near what trained ones are like, and far from what hides a mistake."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf.lower() == "a_log":
        return ["log_uniform", 0.3, 3.0]
    if leaf == "dt_bias" or name.endswith("dt_proj.bias"):
        return ["inv_softplus", 0.05, 0.8]
    if leaf == "D":
        return ["uniform", 0.5, 1.5]
    if leaf in ("e_score_correction_bias", "expert_bias", "router_bias"):
        return ["normal", 0.0, 0.3]
    if "sink" in leaf:
        return ["normal", 0.0, 0.7]
    if leaf in ("bias", "beta") or leaf.endswith("_bias"):
        return ["normal", 0.0, 0.1]
    if "conv" in name.lower() and value.ndim == 3:
        return ["normal", 0.0, 0.35]
    if bool((value == 1).all()):
        return ["normal", 1.0, 0.1]
    if value.ndim <= 1:
        return ["normal", 1.0 if "norm" in name else 0.0, 0.1]
    if any(part in name.lower() for part in ("embed", "wte")):
        return ["normal", 0.0, 0.2]
    return ["fan_in", 1.2]


def wide(x):
    return np.array(x.astype(mx.float32))


def logits(model, tokens):
    one = mx.array(tokens[:1])
    cache = make_prompt_cache(model)
    steps = [wide(model(one[:, :PREFILL], cache=cache))]
    steps += [wide(model(one[:, i : i + 1], cache=cache)) for i in range(PREFILL, TOKENS)]
    return {
        "logits_full": wide(model(one)),
        "logits_prefill_decode": np.concatenate(steps, axis=1),
        "logits_batch": wide(model(mx.array(tokens))),
    }


def loaded(config, weights):
    """The model as mlx-lm loads it from a folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        arrays = {name: mx.array(array) for name, array in weights.items()}
        mx.save_safetensors(str(Path(folder) / "model.safetensors"), arrays, {"format": "mlx"})
        model, _ = load_model(Path(folder))
        mx.eval(model.parameters())
        return model


def wobbles(config, weights, seed, tokens, base):
    """How far logits move, in deviations, when all weights move by a millionth and by a ten-thousandth of themselves."""
    moved = []
    for size in STEADY:
        rng = np.random.default_rng(seed)
        shaken = {k: (w * (1 + size * rng.standard_normal(w.shape))).astype(np.float32) for k, w in weights.items()}
        other = wide(loaded(config, shaken)(mx.array(tokens)))
        moved.append(float(np.abs(other - base).max() / base.std()))
    return moved


class SharedIndex(nn.Module):
    """GLM-5.2's layers without an index of their own, which mlx-lm does not know: what the last index has found."""

    def __call__(self, x, qr, mask, cache=None):
        if cache is not None:
            # The attention looks at the cache of its index.
            nothing = mx.zeros((x.shape[0], 1, x.shape[1], 1))
            cache.update_and_fetch(nothing, nothing)
        return Found.places


class Found(deepseek_v32.Indexer):
    places = None

    def __call__(self, *args, **kwargs):
        Found.places = super().__call__(*args, **kwargs)
        return Found.places


def share_indexes(types):
    plain = deepseek_v32.DeepseekV32DecoderLayer.__init__

    def init(self, config, layer_idx):
        plain(self, config, layer_idx)
        self.self_attn.indexer = SharedIndex() if types[layer_idx] == "shared" else Found(config)

    deepseek_v32.DeepseekV32DecoderLayer.__init__ = init


def record(config, folder, seed):
    if "indexer_types" in config:
        share_indexes(config["indexer_types"])
    model_class, args_class = _get_classes(config)
    parameters = tree_flatten(model_class(args_class.from_dict(dict(config))).parameters())
    recipe = [{"name": k, "shape": list(v.shape), "draw": draw_of(k, v), "dtype": "float32"} for k, v in parameters]
    vocabulary = config.get("vocab_size") or config["text_config"]["vocab_size"]
    for salt in range(ATTEMPTS):
        weights = {r["name"]: values(seed, salt, r["name"], r["shape"], r["draw"]) for r in recipe}
        tokens = 1 + (draws(seed, salt, "tokens", 2 * TOKENS) % np.uint64(vocabulary - 1)).astype(np.int32)
        tokens = tokens.reshape(2, TOKENS)
        found = logits(loaded(config, weights), tokens)
        small, large = wobbles(config, weights, seed, tokens, found["logits_batch"])
        if small < STEADY[1e-6] and large < STEADY[1e-4]:
            break
    base = found["logits_full"]
    if not np.isfinite(base).all():
        raise SystemExit("error: the reference computes logits that are not finite")
    facts = {
        "name": folder.name, "seed": seed, "salt": salt, "model_type": config["model_type"], "prefill": PREFILL,
        "logit_std": float(base.std()), "decode_gap": float(np.abs(base - found["logits_prefill_decode"]).max()),
        "wobble": small, "wobble_1e-4": large, "mlx": version("mlx"), "mlx_lm": version("mlx-lm"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    rows = ",\n".join(json.dumps(row) for row in recipe)
    (folder / "weights.json").write_text(f'{{"seed": {seed}, "salt": {salt}, "tensors": [\n{rows}\n]}}\n')
    arrays = {"tokens": mx.array(tokens)} | {name: mx.array(array) for name, array in found.items()}
    mx.save_safetensors(str(folder / "expected.safetensors"), arrays, {k: str(v) for k, v in facts.items()})
    print(f"{folder.name}: {len(recipe)} tensors, seed {seed}, salt {salt}, wobble {small:.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    record(json.loads(args.config.read_text()), args.folder, args.seed)
