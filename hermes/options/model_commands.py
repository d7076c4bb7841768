"""The options of the commands that use or convert a trained model."""

from pathlib import Path

from hermes.options.generation_options import SAMPLING
from hermes.options.option import Argument, CommandOptions, Overrides
from hermes.options.training_commands import CALL_DISPLAY, TEXT, TEXT_FILES

__all__ = ["MODEL_COMMANDS"]

# What all that use a trained model share.
_LOADED = ("checkpoint", "config", "ignore_fields", "tokenizer")
_DEVICE = ("backend", "device", "precision", "force")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", *SAMPLING, "seed")
_CONFIG: Overrides = {
    "config": {
        "type": Path,
        "group": "Model",
        "help": "Architecture of a bare .safetensors file: its config.json or a .mal file",
    },
}
_FORCE: Overrides = {"force": {"group": "Device", "help": "Try although memory seems too small"}}
_LOADING: Overrides = (
    _CONFIG
    | _FORCE
    | {
        "checkpoint": {
            "type": Path,
            "required": True,
            "help": "Model to load: a checkpoint, a run (its newest checkpoint), a Hugging Face "
            "folder, a .safetensors file with --config, or hf://OWNER/REPO[@REVISION]",
        },
        "tokenizer": {"type": Path, "group": "Model", "default_text": "the checkpoint's own"},
        "eos": {"group": "Model"},
        "precision": {
            "help": "Precision of matrix products and activations; auto is bfloat16 on GPUs that "
            "have it, else float32"
        },
    }
)
_BOS: Overrides = {
    "bos": {"group": "Model", "help": "Begin the text with the tokenizer's BOS token"},
}
_GENERATION: Overrides = _LOADING | {
    "seed": {"group": "Sampling", "help": "Sampling seed; gives the same text on every backend"},
}

MODEL_COMMANDS: dict[str, CommandOptions] = {
    "generate": CommandOptions(
        (
            *_LOADED,
            "use_ema",
            "eos",
            "bos",
            "prompt",
            "max_tokens",
            *("stop", "stop_id", "context_overflow", "json_schema"),
            *_SAMPLING,
            *("num_samples", "num_beams", "length_penalty", "logprobs", "echo", "json"),
            *("prompt_cache", "prompts", "output", "batch_size", "batch_invariant"),
            *_DEVICE,
        ),
        overrides=_GENERATION
        | _BOS
        | {
            "json": {"help": "Print each text as a JSON object"},
            "output": {
                "type": Path,
                "default": None,
                "metavar": "FILE",
                "group": "Files of prompts",
                "help": "File of JSON lines for the texts of --prompts, in their order; lines that "
                "an earlier call wrote are kept",
            },
            "batch_size": {
                "default": 16,
                "group": "Files of prompts",
                "help": "Number of texts generated at once",
            },
            "batch_invariant": {
                "group": "Files of prompts",
                "help": "Compute each text with the same bits whoever is in its batch; slower",
            },
        },
        grouped=True,
    ),
    "chat": CommandOptions(
        (
            *(*_LOADED, "use_ema", "eos", "template", "template_arg", "system", "max_tokens"),
            *("stop", "stop_id", "context_overflow", *_SAMPLING, "prompt_cache", *_DEVICE),
        ),
        overrides=_GENERATION
        | {
            "checkpoint": {
                **{
                    key: value for key, value in _LOADING["checkpoint"].items() if key != "required"
                },
                "default_text": "in a terminal, a menu of those in and below this folder",
            },
            "max_tokens": {"default": 512, "help": "Maximum number of tokens in an answer"},
            "context_overflow": {
                "help": "Where an answer has no more room in the context: stop, or slide, which "
                "forgets the first half of what was read"
            },
            "prompt_cache": {
                "help": "Keep what was read of the conversation in FILE, so that one with the "
                "same beginning is not read again; of this model and precision, on any backend"
            },
            "template": {"group": "Model"},
            "template_arg": {"group": "Model"},
            "seed": {
                "group": "Sampling",
                "help": "Sampling seed; gives the same answers on every backend",
            },
        },
        grouped=True,
    ),
    "serve": CommandOptions(
        (
            *(*_LOADED, "use_ema", "eos", "template", "template_arg"),
            *("model_name", "host", "port", "api_key", "allow_host", "open"),
            *("rows", "batch_invariant", "max_queue", "context", "context_overflow"),
            *("timeout", "prompt_cache", *_DEVICE),
        ),
        overrides=_LOADING
        | {
            "context_overflow": {
                "group": "Server",
                "help": "Where a text no longer fits its context: stop, or slide, which forgets "
                "the first half of what was read, and the oldest turns of a conversation; a "
                "request may have its own",
            },
            "template": {"group": "Model"},
            "template_arg": {"group": "Model"},
            "prompt_cache": {
                "metavar": "DIR",
                "group": "Server",
                "help": "Keep what the rows have read in DIR when the server ends, and begin with "
                "what is there",
            },
            "port": {
                "default": 8000,
                "group": "Server",
                "help": "Port to listen on; 0 takes any that is free",
            },
            "open": {"group": "Server"},
        },
        grouped=True,
    ),
    "eval": CommandOptions(
        (
            *(*_LOADED, "use_ema", "eos", "bos", "data", *TEXT, "cache_dir"),
            *("seq_len", "batch_size", "tasks", "include_path", "num_fewshot", "limit"),
            *("apply_chat_template", "verbose", "quiet", "log_file", "json", *_DEVICE),
        ),
        (TEXT_FILES,),
        overrides=_LOADING
        | _BOS
        | {
            "data": {
                "help": "Text to evaluate on, in any form that hermes train takes; repeatable",
            },
            "seq_len": {
                "group": "Data",
                "default_text": "as in training, else 256 or the model's max_seq_len",
            },
            "batch_size": {"group": "Data", "help": "Sequences per forward pass"},
            **CALL_DISPLAY,
            "json": {"help": "Print what was found as a JSON object"},
        },
        grouped=True,
    ),
    "convert": CommandOptions(
        ("to", "dtype", "config", "ignore_fields", "use_ema", "backend", "force", "json"),
        (
            Argument("src", "Model to read", "SRC", type=Path),
            Argument("dst", "Folder to write, which must not exist", "DST", type=Path),
        ),
        overrides=_FORCE
        | {
            "to": {
                "required": True,
                "default": None,
                "choices": ("hermes", "hf", "mlx-adapter", "peft-adapter"),
                "help": "Target format: a hermes checkpoint, a folder that other tools read as a "
                "Hugging Face model, or the LoRA adapters of a run alone, for mlx-lm or PEFT",
            },
            "config": {
                "type": Path,
                "help": "Architecture of a file that does not carry it: config.json, .mal, or "
                "model_config.yaml of litgpt",
            },
            "backend": {
                "choices": ("auto", "torch", "mlx", "numpy"),
                "help": "Backend that compares the logits of source and result; auto is one that "
                "is installed",
            },
        },
    ),
    "merge": CommandOptions(
        ("checkpoint", "adapter", "output", "to", "dtype", "config", "ignore_fields", "force"),
        overrides=_CONFIG
        | _FORCE
        | {
            "checkpoint": {
                "type": Path,
                "required": True,
                "help": "Run that trained LoRA adapters, or the base model of --adapter",
            },
            "output": {
                "type": Path,
                "required": True,
                "default": None,
                "help": "Folder to write, which must not exist",
            },
            "dtype": {
                "default": "float32",
                "default_text": "",
                "help": "Data type of the weights written; they are added in float32 at least",
            },
        },
    ),
    "push": CommandOptions(
        ("to", "dtype", "public", "config", "ignore_fields", "force"),
        (
            Argument("checkpoint", "Checkpoint or run to push", "CHECKPOINT", type=Path),
            Argument("repo", "Repository on the Hugging Face Hub", "OWNER/REPO"),
        ),
        overrides=_CONFIG | _FORCE,
    ),
}
