"""The options of train, finetune, sft and dpo, in the order of run.yaml."""

from hermes.options.option import Argument, CommandOptions, Overrides

__all__ = ["CALL_DISPLAY", "TEXT", "TEXT_FILES", "TRAINING_COMMANDS"]

# Of commands that compute something long and print it, what is shown meanwhile.
CALL_DISPLAY: Overrides = {
    "verbose": {
        "group": "Reports",
        "help": "Show a line for each stage, and for each result as soon as it is known",
    },
    "quiet": {"group": "Reports", "help": "Show nothing but the result, warnings and errors"},
    "log_file": {
        "group": "Reports",
        "help": "File that gets a line for every stage and result, with the time; it only grows",
    },
}

# What several of them share. Each command lists its options in the order of its run.yaml.
_SAVING = (
    *("output", "resume", "push_to_hub", "push_every_save", "allow_batch_change"),
    *("allow_data_change", "allow_tokenizer_change", "force", "dry_run"),
    *("auto_batch", "on_finish", "print_config"),
)
_MODEL = ("checkpoint", "ignore_fields", "tokenizer", "eos", "bos", "config", *_SAVING)
_STEPS = (
    *("lr", "batch_size", "batch_size_schedule", "grad_accum", "epochs", "max_steps"),
    "train_tokens",
)
_TRACKING = (
    *("sample_every", "sample_prompt", "sample_prompts", "sample_tokens"),
    *("track", "track_project"),
)
_TASKS = (
    *("eval_tasks", "eval_tasks_every", "eval_tasks_path"),
    *("eval_tasks_fewshot", "eval_tasks_limit"),
)
_RECIPE = (
    *("schedule", "warmup_steps", "warmup_ratio", "min_lr_ratio", "decay_ratio", "decay_steps"),
    *("decay_shape", "power", "lr_point", "grad_clip", "weight_decay", "optimizer", "moments"),
    *("group", "ema", "z_loss", "loss_scale", "seed", "val_fraction"),
    *("eval_every", "patience", "min_delta", *_TASKS),
    *("on_nonfinite", "on_spike", "spike_sigma", "spike_window", "gradient_noise_scale"),
    *("save_every", "save_minutes", "save_every_epoch", "log_every"),
    *("verbose", "quiet", "log_file", *_TRACKING),
    *("keep_last", "keep_every", "keep_best"),
    *("freeze_layers", "freeze"),
)
_LORA = (
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora", "dora"),
    "train_new_tokens",
)
_ADAPTER: Overrides = {
    "adapter": {
        "type": str,
        "group": "LoRA adapters",
        "fixed": True,
        "is_path": True,
        "per_rank": True,
        "help": "Continue training this adapter of the model: a run that trained one, or a folder "
        "that PEFT or mlx-lm wrote; rank, alpha and targets are the adapter's",
    },
}
_MACHINE = (
    *("num_gpus", "num_processes", "max_restarts", "shard", "shard_group", "peer_timeout"),
    *("backend", "device", "precision", "deterministic", "grad_checkpoint"),
    *("selective_checkpoint", "compile"),
)
_TUNING: Overrides = {
    "tokenizer": {"default_text": "the checkpoint's own"},
    "config": {
        "help": "YAML file with options, such as the run.yaml of another run, or with bare "
        "weights their config.json or .mal; the command line takes precedence",
    },
}
_CHAT_TUNING: Overrides = _TUNING | {
    "format": {"choices": ("jsonl", "json", "csv", "tsv", "parquet")},
    "cache_dir": {"default_text": "the user's cache folder, from 2 MB of text on"},
}
# How records are read, and where what they are encoded as is kept.
_RECORDS = ("format", "skip_bad_records", "max_bad_records", "cache_dir")
# How text is read, and what only training on text has besides.
TEXT = ("text_field", "format", "documents", "no_header", "skip_bad_records", "max_bad_records")
_TEXT_DATA = ("cache_dir", "val_data", "document_mask", "pack", "overlong", "hold_out")
_ROWS: Overrides = {
    "pack": {
        "group": "Sequences",
        "help": "Fill each sequence with documents, one behind the other; --no-pack gives each "
        "document a sequence of its own, padded",
    },
    "overlong": {
        "group": "Sequences",
        "help": "What to do, with --no-pack, with documents longer than --seq-len: stop with an "
        "error, leave them out, or keep their beginning",
    },
}
TEXT_FILES = Argument(
    "more", "More files, as with --data", "[FILE]...", repeated=True, required=False
)

TRAINING_COMMANDS: dict[str, CommandOptions] = {
    "train": CommandOptions(
        (
            *("data", *TEXT, *_TEXT_DATA, "tokenizer", "train_tokenizer", "vocab_size"),
            "force_retrain_tokenizer",
            *("eos", "bos"),
            *("model", "checkpoint", "ignore_fields", *_SAVING, *_STEPS),
            *("seq_len", "seq_len_schedule"),
            *_RECIPE,
            "cooldown_from",
            *(*_MACHINE, "config", "set"),
        ),
        (TEXT_FILES,),
        overrides=_ROWS
        | {
            "checkpoint": {
                "help": "Start from the weights of this model instead of from scratch, as hermes "
                "finetune does",
            },
            "set": {
                "help": "Set a key of the architecture, such as model.num_layers=2, or a field of "
                "the recipe, such as optimizer.beta2=0.98; repeatable",
            },
        },
        grouped=True,
    ),
    "finetune": CommandOptions(
        (
            *(*_MODEL, "data", *TEXT, *_TEXT_DATA, "seq_len", "seq_len_schedule"),
            *(*_STEPS, *_RECIPE, "adapter", *_LORA, *_MACHINE, "set"),
        ),
        overrides=_TUNING | _ROWS | _ADAPTER,
        grouped=True,
    ),
    "sft": CommandOptions(
        (
            *(*_MODEL, "data", *_RECORDS, "template", "template_arg", "seq_len"),
            *("message_token", "train_on_prompt", "pack", "overlong", "show_samples"),
            *(*_STEPS, *_RECIPE, "adapter", *_LORA, *_MACHINE, "set"),
        ),
        overrides=_CHAT_TUNING
        | _ADAPTER
        | {
            "data": {
                "help": "Conversations: .jsonl, .json or .csv files, folders or glob patterns; "
                "repeatable",
            },
            "seq_len": {"default_text": "1024, or the model's max_seq_len if that is less"},
        },
        grouped=True,
    ),
    "dpo": CommandOptions(
        (
            *(*_MODEL, "data", *_RECORDS, "template", "template_arg", "no_template"),
            *("message_token", "show_samples"),
            *("beta", "max_len", "drop_overlong", "loss", "label_smoothing", "gamma"),
            *("sft_weight", "reference_cache"),
            *(*_STEPS, *_RECIPE, *_LORA, *_MACHINE, "set"),
        ),
        overrides=_CHAT_TUNING
        | {
            "data": {
                "help": "Preference pairs: .jsonl, .json or .csv files, folders or glob patterns; "
                "repeatable",
            },
            "show_samples": {
                "help": "Print both sides of the first N pairs with the trained tokens highlighted",
            },
            "output": {"default": "checkpoints-dpo"},
            "train_tokens": {
                "help": "Total length in tokens, --max-len for each pair, overriding --epochs; 0 "
                "follows --epochs",
            },
            "lr": {"default": 5e-7},
            "batch_size": {"default": 4, "help": "Preference pairs per micro-batch and process"},
            "allow_batch_change": {
                "help": "Allow --resume to change the number of pairs per optimizer step",
            },
        },
        grouped=True,
    ),
}
