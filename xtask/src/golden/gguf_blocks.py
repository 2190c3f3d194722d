"""Blocks of every packed type of GGUF and their weights, by the Python package gguf: python3 gguf_blocks.py BLOCKS

Writes the file that the tests of mlxlm-core compare with, `tests/fixtures/gguf/blocks.safetensors`: for each type two rows of 256
weights as `TYPE.bytes` and `TYPE.weights`.
"""

import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize
from safetensors.numpy import save_file

HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.MXFP4: [],
}

rng = np.random.default_rng(7)
tensors = {}
for kind, halves in HALVES.items():
    weights, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (2 * 256 // weights, size), dtype=np.uint8)
    for at in halves:
        scale = rng.normal(0, 0.02, len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = scale[:, None].view(np.uint8)
    if kind == Type.MXFP4:
        blocks[:, 0] = rng.integers(110, 135, len(blocks))
    tensors[f"{kind.name}.bytes"] = blocks.reshape(-1)
    tensors[f"{kind.name}.weights"] = dequantize(blocks, kind).astype(np.float32).reshape(2, 256)
save_file(tensors, sys.argv[1])
