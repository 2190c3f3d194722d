"""What Python mlx-lm says of the real model: python3 real.py FOLDER PROMPTS EXPECTED

FOLDER is the model that `cargo xtask real-model` makes, PROMPTS a JSON file with `prompts`, `conversations` and `text`, EXPECTED
the JSON file that is written for the test `real` of mlxlm-cli.
"""

import json
import math
import sys

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step

TOKENS = 24

folder, prompts, expected = sys.argv[1:]
mx.set_default_device(mx.cpu)
model, tokenizer = load(folder)
given = json.load(open(prompts))


def answer(prompt):
    tokens = []
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=TOKENS):
        if token in tokenizer.eos_token_ids:
            break
        tokens.append(int(token))
    return {"prompt": prompt, "tokens": tokens, "text": tokenizer.decode(tokens)}


def render(messages):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def nll(text):
    tokens = mx.array(tokenizer.encode(text))
    logits = model(tokens[None, :-1])[0].astype(mx.float32)
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    picked = mx.take_along_axis(scores, tokens[1:, None], axis=-1)
    return -picked.mean().item(), tokens.size


loss, count = nll(given["text"])
record = {
    "plain": [answer(tokenizer.encode(prompt)) for prompt in given["prompts"]],
    "rendered": [render(messages) for messages in given["conversations"]],
    "chat": [answer(tokenizer.encode(render(m), add_special_tokens=False)) for m in given["conversations"]],
    "perplexity": {"tokens": count, "value": math.exp(loss)},
}
json.dump(record, open(expected, "w"), indent=1, ensure_ascii=False)
print(f"perplexity {math.exp(loss):.4f} on {count} tokens")
