"""What other tools call hermes's options, for whoever types their names."""

from collections.abc import Iterable

from hermes.errors import suggest_nearest

__all__ = ["suggest_command", "suggest_option"]

# Hermes's name: those of transformers' Trainer, TRL, litgpt, nanoGPT, nanochat, torchtitan, axolotl
# and mlx-lm.
SYNONYMS = {
    "lr": "learning_rate max_lr peak_lr",
    "batch_size": "per_device_train_batch_size micro_batch_size device_batch_size "
    "local_batch_size train_batch_size",
    "grad_accum": "gradient_accumulation_steps grad_accumulation_steps accumulate_grad_batches "
    "accumulation_steps",
    "seq_len": "block_size max_seq_length max_seq_len sequence_len sequence_length "
    "context_length cutoff_len",
    "max_steps": "max_iters iters num_steps steps total_steps num_iterations train_iters",
    "epochs": "num_train_epochs num_epochs max_epochs",
    "warmup_steps": "warmup_iters lr_warmup_steps num_warmup_steps",
    "schedule": "lr_scheduler_type lr_scheduler scheduler decay_style lr_decay_style "
    "scheduler.type lr_scheduler.type",
    "decay_steps": "cooldown_steps cooldown_iters warmdown_iters warmdown_steps",
    "decay_ratio": "cooldown_ratio warmdown_ratio decay_fraction",
    "train_tokens": "total_tokens num_tokens token_budget max_train_tokens",
    "moments": "optim_bits optimizer_dtype optimizer_state_dtype state_dtype",
    "ema": "ema_decay",
    "z_loss": "z_loss_weight z_loss_coef lm_head_z_loss",
    "min_lr_ratio": "min_lr lr_min",
    "grad_clip": "max_grad_norm max_norm gradient_clipping clip_grad",
    "optimizer.beta1": "beta1 adam_beta1",
    "optimizer.beta2": "beta2 adam_beta2",
    "optimizer.name": "optim optimizer_type optimizer_name optimizer.type optimizer.kind",
    "optimizer.eps": "eps adam_epsilon epsilon",
    "loss_scale": "initial_loss_scale init_scale loss_scaling",
    "loss_scaling.growth": "growth_factor",
    "loss_scaling.backoff": "backoff_factor",
    "loss_scaling.interval": "growth_interval loss_scale_window",
    "loss_scaling.minimum": "min_loss_scale",
    "weight_decay": "wd",
    "precision": "dtype bf16 fp16 mixed_precision compute_dtype torch_dtype",
    "grad_checkpoint": "gradient_checkpointing activation_checkpointing activation_checkpoint",
    "selective_checkpoint": "selective_activation_checkpointing selective_ac",
    "compile": "torch_compile",
    "save_every": "save_steps save_interval checkpoint_interval save_every_steps",
    "eval_every": "eval_steps eval_interval steps_per_eval eval_every_steps",
    "log_every": "logging_steps log_interval steps_per_report logging_interval",
    "keep_last": "save_total_limit keep_last_n max_checkpoints",
    "output": "output_dir out_dir save_dir run_dir adapter_path checkpoint_dir",
    "data": "dataset data_path train_file train_data data_dir datasets",
    "val_data": "validation_file eval_data eval_file val_file",
    "val_fraction": "val_split_fraction val_set_size validation_split test_size",
    "text_field": "text_column dataset_text_field field",
    "checkpoint": "model_name_or_path base_model resume_from pretrained",
    "resume": "resume_from_checkpoint continue",
    "lora_rank": "lora_r rank r lora use_lora use_peft",
    "lora_targets": "target_modules lora_target_modules",
    "track": "report_to logger loggers with_tracking wandb",
    "track_project": "wandb_project project project_name",
    "patience": "early_stopping_patience early_stopping",
    "min_delta": "early_stopping_threshold early_stopping_min_delta",
    "keep_best": "save_best load_best_model_at_end metric_for_best_model",
    "sample_every": "sample_steps sample_interval",
    "eval_tasks": "tasks lm_eval_tasks",
    "price_per_hour": "price hourly_price cost_per_hour",
    "num_gpus": "nproc_per_node gpus devices num_devices",
    "pack": "sample_packing packing",
    "max_tokens": "max_new_tokens max_length n_predict num_predict",
    "num_samples": "num_return_sequences",
    "seed": "random_seed",
}
OWN_NAMES = {word: name for name, words in SYNONYMS.items() for word in words.split()}


# Hermes's commands: what others call them, or what is typed for them.
COMMANDS = {
    "train": "pretrain fit resume run",
    "train-tokenizer": "tokenizer train_bpe",
    "prepare": "tokenize preprocess prepare_data",
    "sft": "lora fine_tune instruct tune_chat",
    "finetune": "tune continue",
    "dpo": "align rlhf orpo simpo preference",
    "generate": "infer inference complete sample predict",
    "eval": "evaluate test validate score perplexity",
    "convert": "export import download quantize",
    "merge": "fuse merge_lora",
    "push": "upload publish",
    "serve": "server api",
    "models": "list ls architectures",
    "mal check": "check lint",
    "mal format": "format fmt",
    "mal diff": "diff compare",
    "checkpoint show": "show inspect",
    "checkpoint verify": "verify",
    "checkpoint list": "checkpoints",
    "data check": "check_data validate_data",
    "plan": "estimate memory cost",
    "watch": "dashboard monitor board tensorboard",
    "conformance run": "prove certify",
    "conformance self-test": "self_test selftest",
    "doctor": "env",
    "--help": "help",
    "--version": "version",
    "quickstart": "init demo start_here",
}
OWN_COMMANDS = {word: name for name, words in COMMANDS.items() for word in words.split()}


def suggest_command(word: str, known: Iterable[str]) -> str:
    """Suggest the command that is meant: "; hermes calls it 'convert'", the nearest, or ""."""
    meant = OWN_COMMANDS.get(word.replace("-", "_").lower())
    return f"; hermes calls it {meant!r}" if meant else suggest_nearest(word, known)


def suggest_option(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggest the known option that is meant: "; hermes calls it 'lr'", the nearest, or "".

    Underscores and dashes are the same, and a section before a point is passed over, as in
    'optimizer.learning_rate'. prefix: of the options as they are typed, '--' on the command line.
    """
    names = list(known)
    plain = word.lstrip("-").replace("-", "_").lower()
    meant = OWN_NAMES.get(plain) or OWN_NAMES.get(plain.rsplit(".", 1)[-1])
    last = plain.rsplit(".", 1)[-1]
    if meant is None and last != plain and last in names:
        meant = last
    if meant in names and meant is not None:
        typed = f"{prefix}{meant.replace('_', '-')}" if prefix else meant
        return f"; hermes calls it {typed!r}"
    near = suggest_nearest(plain, names)
    return near.replace("_", "-").replace("'", f"'{prefix}", 1) if prefix and near else near
