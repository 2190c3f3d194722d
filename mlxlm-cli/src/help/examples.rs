//! The examples that the help of each command ends with.

/// Two examples of each command, with what they do.
pub(super) const EXAMPLES: [(&str, [(&str, &str); 2]); 24] = [
    (
        "generate",
        [
            ("mlxlm generate --model demo --prompt \"Once upon a time\"", "Use the built-in model"),
            (
                "mlxlm generate --model mlx-community/Qwen3-0.6B-4bit -p - < question.txt",
                "Use a model of the hub, and a prompt from a file",
            ),
        ],
    ),
    (
        "chat",
        [
            (
                "mlxlm chat --model mlx-community/Qwen3-0.6B-4bit",
                "Start a conversation; `/help` lists the commands in it",
            ),
            ("mlxlm chat --model demo --temp 0.7 --system-prompt \"Be brief.\"", "Sample, with a system prompt"),
        ],
    ),
    (
        "check",
        [
            ("mlxlm check mlx_model", "Check a model folder"),
            ("mlxlm check mlx-community/Qwen3-0.6B-4bit --json", "Check a model of the hub, and print JSON"),
        ],
    ),
    (
        "convert",
        [
            ("mlxlm convert --model Qwen/Qwen3-0.6B -q --mlx-path qwen3-4bit", "Quantize to 4 bits in groups of 64"),
            ("mlxlm convert --model qwen3-4bit -d --dtype bfloat16 --mlx-path qwen3-bf16", "Dequantize to bfloat16"),
        ],
    ),
    (
        "quantize",
        [
            ("mlxlm quantize --model Qwen/Qwen3-0.6B --target-bpw 4", "Find the best model of 4 bits per weight"),
            ("mlxlm quantize --model Qwen/Qwen3-0.6B --target-bytes 300M", "Find the best model of 300 MB"),
        ],
    ),
    (
        "gptq",
        [
            ("mlxlm gptq --model Qwen/Qwen3-0.6B --bits 3 --mlx-path qwen3-3bit", "Quantize to 3 bits"),
            ("mlxlm gptq --model Qwen/Qwen3-0.6B --data-path code.jsonl", "Calibrate with your own data"),
        ],
    ),
    (
        "awq",
        [
            ("mlxlm awq --model Qwen/Qwen3-0.6B --mlx-path qwen3-awq", "Quantize to 4 bits"),
            ("mlxlm awq --model Qwen/Qwen3-0.6B --bits 3 --num-samples 32", "Quantize to 3 bits with fewer samples"),
        ],
    ),
    (
        "dwq",
        [
            ("mlxlm dwq --model Qwen/Qwen3-0.6B --mlx-path qwen3-dwq", "Quantize to 4 bits and train the scales"),
            (
                "mlxlm dwq --model Qwen/Qwen3-0.6B --quantized-model qwen3-4bit",
                "Improve a model that is already quantized",
            ),
        ],
    ),
    (
        "dynamic_quant",
        [
            ("mlxlm dynamic_quant --model Qwen/Qwen3-0.6B --target-bpw 4.5", "Mix 4 and 5 bits"),
            (
                "mlxlm dynamic_quant --model Qwen/Qwen3-0.6B --low-bits 3 --high-bits 6 --target-bpw 4",
                "Mix 3 and 6 bits",
            ),
        ],
    ),
    (
        "upload",
        [
            ("mlxlm upload --path mlx_model --upload-repo me/qwen3-4bit", "Upload a folder; needs `HF_TOKEN`"),
            ("mlxlm upload --upload-repo me/my-model", "Upload the folder `mlx_model`"),
        ],
    ),
    (
        "lora",
        [
            (
                "mlxlm lora --model mlx-community/Qwen3-0.6B-4bit --train --data my_data --iters 600",
                "Train a LoRA adapter on `my_data/train.jsonl`",
            ),
            ("mlxlm lora --config lora.yaml --resume", "Resume a training with its settings in a file"),
        ],
    ),
    (
        "fuse",
        [
            (
                "mlxlm fuse --model mlx-community/Qwen3-0.6B-4bit --adapter-path adapters",
                "Write the folder `fused_model`",
            ),
            ("mlxlm fuse --model mlx_model --dequantize --export-gguf --gguf-type q8_0", "Also write a GGUF file"),
        ],
    ),
    (
        "adapter",
        [
            (
                "mlxlm adapter --adapter-path adapters --save-path peft --to peft --base-model Qwen/Qwen3-0.6B",
                "Convert an adapter for PEFT",
            ),
            ("mlxlm adapter --adapter-path peft --save-path adapters --to mlx", "Convert an adapter of PEFT"),
        ],
    ),
    (
        "merge",
        [
            ("mlxlm merge --models model_a model_b --t 0.3", "Interpolate two models with slerp"),
            (
                "mlxlm merge --models tuned_a tuned_b --base original --method ties --density 0.5",
                "Merge two fine-tunes with TIES",
            ),
        ],
    ),
    (
        "perplexity",
        [
            ("mlxlm perplexity --model mlx_model --data-path book.txt", "Measure the perplexity of a text"),
            (
                "mlxlm perplexity --model qwen3-4bit --against Qwen/Qwen3-0.6B --data-path book.txt",
                "Compare a quantized model with the original",
            ),
        ],
    ),
    (
        "evaluate",
        [
            ("mlxlm evaluate --model mlx_model --tasks arc_easy.yaml", "Run one task"),
            (
                "mlxlm evaluate --model mlx_model --tasks a.yaml b.yaml --limit 100 --log-samples",
                "Run two tasks with 100 questions each, and keep the answers",
            ),
        ],
    ),
    (
        "cache_prompt",
        [
            (
                "mlxlm cache_prompt --model mlx_model --prompt - --prompt-cache-file book.safetensors < book.txt",
                "Process a book once",
            ),
            ("mlxlm generate --prompt-cache-file book.safetensors -p \"Who is the thief?\"", "Ask a question about it"),
        ],
    ),
    (
        "benchmark",
        [
            ("mlxlm benchmark --model mlx_model -p 512 -g 128", "Process 512 tokens and generate 128"),
            ("mlxlm benchmark --bandwidth", "Measure memory bandwidth, which limits generation"),
        ],
    ),
    (
        "server",
        [
            ("mlxlm server --model mlx-community/Qwen3-0.6B-4bit", "Serve this machine, on port 8080"),
            (
                "mlxlm server --model mlx_model --host 0.0.0.0 --api-key-file keys.txt",
                "Serve the network, with API keys",
            ),
        ],
    ),
    (
        "manage",
        [
            ("mlxlm manage --scan --pattern Qwen", "List cached models whose name contains `Qwen`"),
            ("mlxlm manage --delete --pattern Qwen3-0.6B", "Delete a cached model"),
        ],
    ),
    (
        "models",
        [
            ("mlxlm models", "List the supported model types"),
            ("mlxlm models --config config.json", "Print the size of a model without its weights"),
        ],
    ),
    (
        "list",
        [("mlxlm list", "List the models in the cache, and the built-in ones"), ("mlxlm list --json", "Print JSON")],
    ),
    (
        "show",
        [
            ("mlxlm show demo", "Show the built-in model"),
            ("mlxlm show mlx-community/Qwen3-0.6B-4bit", "Show a model of the hub"),
        ],
    ),
    (
        "completions",
        [
            (
                "mlxlm completions bash > ~/.local/share/bash-completion/completions/mlxlm",
                "Install completions for bash",
            ),
            ("mlxlm completions zsh > \"${fpath[1]}/_mlxlm\"", "Install completions for zsh"),
        ],
    ),
];
