"""Ten steps of training in Python mlx-lm 0.32.2, beside this file: python record_training.py

Each case trains `../golden/models/llama`, whose weights are drawn from its recipe, on the same four rows. Recorded are the loss of each
step and how far some elements of each trained parameter have moved after it. Adapters begin as `start_lora.safetensors` and
`start_dora.safetensors`, since Python draws others than mlxlm. DPO and ORPO, which mlx-lm does not have, are written out below."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers

HERE = Path(__file__).parent
sys.path.append(str(HERE / "../../../xtask/src/golden"))
from record import values  # noqa: E402

MODEL = HERE / "../golden/models/llama"
STEPS, SEEN, LAYERS = 10, 16, 1
LORA = {"rank": 2, "scale": 10.0, "dropout": 0.0}
# Rows of tokens, and where the learned part begins; pairs for DPO and ORPO begin with the same prompt.
ROWS = [([(7 * i + 3 * r + i * i) % 128 for i in range(9 + 4 * r)], [0, 5, 0, 7][r]) for r in range(4)]
PAIRS = [(([1, 2, 3, 10 + r, 20 + 3 * r, 30 + r], 3), ([1, 2, 3, 90 - r, 80, 70 + r, 60], 3)) for r in range(3)]
SCHEDULE = {"name": "cosine_decay", "arguments": [2e-3, 8, 1e-4], "warmup": 3, "warmup_init": 5e-4}
CASES = {
    "lora_adam": ("lora", "adam", {}, 1e-3, {}),
    "lora_adamw": ("lora", "adamw", {"weight_decay": 0.1, "bias_correction": True}, 1e-2, {}),
    "lora_sgd": ("lora", "sgd", {"momentum": 0.9, "nesterov": True}, 1e-2, {}),
    "lora_muon": ("lora", "muon", {}, 1e-2, {}),
    "lora_adafactor": ("lora", "adafactor", {}, 1e-2, {}),
    "dora_adam": ("dora", "adam", {}, 1e-2, {}),
    "full_adam": ("full", "adam", {}, 1e-3, {}),
    "full_muon": ("full", "muon", {"nesterov": False, "weight_decay": 0.0}, 1e-3, {}),
    "full_adafactor": ("full", "adafactor", {"beta_1": 0.9, "weight_decay": 0.1, "warmup_init": True}, 1e-3, {}),
    "full_adafactor_rate": ("full", "adafactor", {"relative_step": False, "scale_parameter": False}, 1e-3, {}),
    "lora_schedule": ("lora", "adam", {}, SCHEDULE, {"accumulate": 2}),
    "lora_clipped": ("lora", "sgd", {}, 1e-1, {"clip": 0.5}),
    "lora_dpo": ("lora", "adam", {}, 1e-2, {"objective": "dpo", "beta": 0.2}),
    "full_orpo": ("full", "adam", {}, 1e-3, {"objective": "orpo", "beta": 0.3}),
}


def model():
    config = json.loads((MODEL / "config.json").read_text())
    recipe = json.loads((MODEL / "weights.json").read_text())
    built = Model(ModelArgs.from_dict(config))
    drawn = [
        (t["name"], mx.array(np.array(values(recipe["seed"], recipe["salt"], t["name"], t["shape"], t["draw"]), np.float32)
                             .reshape(t["shape"])))
        for t in recipe["tensors"]
    ]
    built.load_weights(drawn)
    return built


def padded(rows):
    width = 1 + 32 * -(-max(len(tokens) for tokens, _ in rows) // 32)
    batch = np.zeros((len(rows), width), np.int32)
    for row, (tokens, _) in zip(batch, rows):
        row[: len(tokens)] = tokens
    # The reference also learns one token of padding after each row; without the `- 1` it would here.
    return mx.array(batch), mx.array([(start, len(tokens) - 1) for tokens, start in rows])


def log_likelihoods(model, batch, lengths):
    logits = model(batch[:, :-1])
    steps = mx.arange(1, batch.shape[1])
    mask = mx.logical_and(steps >= mx.maximum(lengths[:, :1], 1), steps <= lengths[:, 1:])
    return -(nn.losses.cross_entropy(logits, batch[:, 1:]) * mask).sum(-1), mask.sum(-1)


def dpo(base, beta):
    def loss(model, chosen, rejected):
        (c, _), (r, _) = log_likelihoods(model, *chosen), log_likelihoods(model, *rejected)
        (bc, _), (br, _) = log_likelihoods(base, *chosen), log_likelihoods(base, *rejected)
        z = beta * ((c - bc) - (r - br))
        return mx.mean(mx.log(1 + mx.exp(-z))), 0

    return loss


def orpo(beta):
    def loss(model, chosen, rejected):
        (c, nc), (r, nr) = log_likelihoods(model, *chosen), log_likelihoods(model, *rejected)
        pc, pr = mx.exp(c / nc), mx.exp(r / nr)
        ratio = (pc / (1 - pc)) / (pr / (1 - pr))
        return -c.sum() / nc.sum() - beta * mx.mean(mx.log(1 / (1 + 1 / ratio))), 0

    return loss


def run(kind, optimizer, settings, rate, more):
    trained = model()
    trained.freeze()
    if kind == "full":
        for layer in trained.layers[-LAYERS:]:
            layer.unfreeze()
    else:
        linear_to_lora_layers(trained, LAYERS, LORA, use_dora=kind == "dora")
        start = HERE / f"start_{kind}.safetensors"
        if start.exists():
            trained.load_weights(str(start), strict=False)
        else:
            mx.save_safetensors(str(start), dict(tree_flatten(trained.trainable_parameters())))
    before = dict(tree_flatten(trained.trainable_parameters()))
    rate = build_schedule(rate) if isinstance(rate, dict) else rate
    names = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD, "muon": optim.Muon, "adafactor": optim.Adafactor}
    made = names[optimizer](learning_rate=rate, **settings)
    if "objective" in more:
        batch = [padded([pair[part] for pair in PAIRS]) for part in (0, 1)]
        loss = dpo(model(), more["beta"]) if more["objective"] == "dpo" else orpo(more["beta"])
    else:
        batch, loss = padded(ROWS), default_loss
    value_and_grad = nn.value_and_grad(trained, loss)
    every, waiting = more.get("accumulate", 1), None
    losses, moved = [], {name: [] for name in before}
    for step in range(1, STEPS + 1):
        (value, _), gradient = value_and_grad(trained, *batch)
        if waiting is not None:
            gradient = tree_map(lambda a, b: a + b, gradient, waiting)
        waiting = gradient
        if step % every == 0:
            gradient, waiting = tree_map(lambda g: g / every, gradient), None
            if "clip" in more:
                gradient, _ = optim.clip_grad_norm(gradient, more["clip"])
            made.update(trained, gradient)
        mx.eval(trained.parameters(), made.state, value)
        losses.append(value.item())
        for name, now in tree_flatten(trained.trainable_parameters()):
            change = (now - before[name]).reshape(-1)
            moved[name].append(change[:: max(1, change.size // SEEN)][:SEEN])
    arrays = {f"moved.{name}": mx.stack(rows) for name, rows in moved.items()}
    return {"losses": mx.array(losses), **arrays}


if __name__ == "__main__":
    cases = {}
    for name, case in CASES.items():
        recorded = run(*case)
        print(name, recorded["losses"].tolist())
        cases |= {f"{name}/{key}": value for key, value in recorded.items()}
    mx.save_safetensors(str(HERE / "expected.safetensors"), cases)
    keys = ("kind", "optimizer", "settings", "rate", "more")
    described = {name: dict(zip(keys, case)) for name, case in CASES.items()}
    text = {"rows": ROWS, "pairs": PAIRS, "lora": LORA, "layers": LAYERS, "cases": described}
    (HERE / "cases.json").write_text(json.dumps(text, indent=1) + "\n")
