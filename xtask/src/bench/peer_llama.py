"""llama.cpp through llama-cpp-python, for `cargo xtask bench`.

    peer_llama.py version
    peer_llama.py make SHAPE.json MODEL.gguf      (needs the package `gguf`)
    peer_llama.py run MODEL.gguf PROMPT GENERATE THREADS

`make` writes a model of random Q4_0 blocks, the embedding table included. `run` prints one JSON object: tokens a second of
reading a prompt at once and of single tokens after the first, each after one run to warm up. No token is sampled.
"""

import json
import os
import sys
import time


def version():
    import llama_cpp

    system = llama_cpp.llama_print_system_info().decode()
    return {"version": llama_cpp.__version__, "system": system}


def make(shape, path):
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    # Blocks of 32 weights: a scale and 32 values from -8 to 7, such that their deviation is 0.02.
    pool = rng.integers(0, 256, (1 << 20, 18), dtype=np.uint8)
    scales = (0.02 / 4.61 * rng.uniform(0.75, 1.25, len(pool))).astype(np.float16)
    pool[:, :2] = scales.view(np.uint8).reshape(-1, 2)

    names = {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}
    kind = names[shape["model_type"]]
    experts = shape.get("num_experts")
    writer = gguf.GGUFWriter(path + ".tmp", kind)
    writer.add_context_length(131072)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("no_vocab")
    if "sliding_window" in shape:
        writer.add_sliding_window(shape["sliding_window"])
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(shape["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(shape["moe_intermediate_size"])

    def matrix(name, rows, columns, *copies):
        blocks = rows * columns // 32 * (copies[0] if copies else 1)
        start = int(rng.integers(len(pool)))
        tensor = np.take(pool, range(start, start + blocks), axis=0, mode="wrap")
        tensor = tensor.reshape(*copies, rows, columns // 32 * 18)
        writer.add_tensor(name, tensor, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def norm(name, width=shape["hidden_size"]):
        writer.add_tensor(name, np.ones(width, np.float32))

    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    matrix("token_embd.weight", shape["vocab_size"], hidden)
    norm("output_norm.weight")
    if not shape["tie_word_embeddings"]:
        matrix("output.weight", shape["vocab_size"], hidden)
    for layer in range(shape["num_hidden_layers"]):
        block = f"blk.{layer}."
        norm(block + "attn_norm.weight")
        norm(block + "ffn_norm.weight")
        matrix(block + "attn_q.weight", queries, hidden)
        matrix(block + "attn_k.weight", keys, hidden)
        matrix(block + "attn_v.weight", keys, hidden)
        matrix(block + "attn_output.weight", hidden, queries)
        if kind != "llama":
            norm(block + "attn_q_norm.weight", shape["head_dim"])
            norm(block + "attn_k_norm.weight", shape["head_dim"])
        if kind == "gemma3":
            norm(block + "post_attention_norm.weight")
            norm(block + "post_ffw_norm.weight")
        if experts:
            router = rng.normal(0, 0.02, (experts, hidden)).astype(np.float32)
            writer.add_tensor(block + "ffn_gate_inp.weight", router)
            matrix(block + "ffn_gate_exps.weight", inner, hidden, experts)
            matrix(block + "ffn_up_exps.weight", inner, hidden, experts)
            matrix(block + "ffn_down_exps.weight", hidden, inner, experts)
            continue
        matrix(block + "ffn_gate.weight", inner, hidden)
        matrix(block + "ffn_up.weight", inner, hidden)
        matrix(block + "ffn_down.weight", hidden, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(path + ".tmp", path)


def run(path, prompt, generate, threads):
    import llama_cpp as llama

    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    begin = time.perf_counter()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    assert model, f"llama.cpp does not load {path}"
    params = llama.llama_context_default_params()
    params.n_ctx = max(prompt, generate) + 64
    params.n_batch = params.n_ubatch = prompt
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    assert context, "llama.cpp makes no context"
    batch = llama.llama_batch_init(prompt, 0, 1)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def forget():
        llama.llama_memory_clear(llama.llama_get_memory(context), True)

    def read(tokens, first):
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i + 1 == len(tokens)
        status = llama.llama_decode(context, batch)
        assert status == 0, f"llama_decode says {status}"
        llama.llama_synchronize(context)

    def prefill():
        forget()
        begin = time.perf_counter()
        read([(7919 * i + 1) % vocab for i in range(prompt)], 0)
        return prompt / (time.perf_counter() - begin)

    def decode(count):
        forget()
        read([1], 0)
        begin = time.perf_counter()
        for i in range(1, count):
            read([7919 * i % vocab], i)
        return (count - 1) / (time.perf_counter() - begin)

    read([1], 0)
    ready = time.perf_counter() - begin
    result = {"ready_s": ready}
    if prompt > 1:
        prefill()
        result["prompt_tps"] = prefill()
    if generate > 1:
        decode(min(generate, 8))
        result["generation_tps"] = decode(generate)
    return result


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    if command == "make":
        with open(args[0]) as file:
            make(json.load(file), args[1])
    elif command == "version":
        print(json.dumps(version()))
    else:
        print(json.dumps(run(args[0], *map(int, args[1:4]))))
