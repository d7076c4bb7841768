"""The public functions that train an existing model further on text or conversations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.api import bind_call, ignore_event, return_false, run_to_end
from hermes.arguments import Call
from hermes.data.conversations import read_conversations
from hermes.data.file_names import expand_paths
from hermes.distributed.agreement import all_or_none
from hermes.finetuning.options import (
    apply_run_settings,
    check_show_samples,
    choose_base_model,
    make_bad_records,
    make_example_cache,
    make_finetuning_fields,
    make_finetuning_request,
    make_text_request,
)
from hermes.finetuning.sft import SFTData, show_examples
from hermes.recipe import LossScaling, OptimizerRecipe
from hermes.tokenizer import Tokenizer
from hermes.training.events import Event
from hermes.training.host import RunHost, join_host
from hermes.training.options import list_files
from hermes.training.result import TrainResult

__all__ = ["finetune", "sft"]

LONGEST_ROW = 1024  # default tokens per sample


@bind_call
def finetune(
    call: Call,
    checkpoint: str | Path | None = None,
    data: str | Path | Mapping[str, Any] | Sequence[str | Path] = (),
    *,
    text_field: str = "text",
    format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    skip_bad_records: bool = False,
    max_bad_records: float = 0.01,
    cache_dir: str | Path | None = None,
    val_data: str | Path | Sequence[str | Path] = (),
    document_mask: bool = False,
    pack: bool = True,
    overlong: str = "error",
    hold_out: str = "windows",
    tokenizer: Tokenizer | str | Path | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    output: str | Path = "checkpoints",
    resume: bool = False,
    allow_batch_change: bool = False,
    allow_data_change: bool = False,
    allow_tokenizer_change: bool = False,
    force: bool = False,
    dry_run: bool = False,
    auto_batch: bool = False,
    on_finish: str = "",
    lr: float = 3e-4,
    batch_size: int = 32,
    batch_size_schedule: str = "",
    grad_accum: int = 1,
    epochs: float = 1,
    max_steps: int = 0,
    train_tokens: int = 0,
    seq_len: int | None = None,
    seq_len_schedule: str = "",
    schedule: str = "constant",
    warmup_steps: int = 0,
    warmup_ratio: float = 0.0,
    min_lr_ratio: float = 0.1,
    decay_ratio: float = 0.1,
    decay_steps: int = 0,
    decay_shape: str = "linear",
    power: float = 2.0,
    lr_point: Sequence[Sequence[str]] = (),
    grad_clip: float = 1.0,
    weight_decay: float = 0.1,
    optimizer: str | OptimizerRecipe | None = None,
    moments: str = "float32",
    group: Sequence[Sequence[str]] = (),
    ema: float = 0.0,
    z_loss: float = 0.0,
    loss_scale: float | LossScaling = 65536.0,
    seed: int = 0,
    val_fraction: float = 0.0,
    eval_every: int = 0,
    patience: int = 0,
    min_delta: float = 0.0,
    eval_tasks: str | Sequence[str] = (),
    eval_tasks_every: int = 0,
    eval_tasks_path: str | Path | None = None,
    eval_tasks_fewshot: int | None = None,
    eval_tasks_limit: float | None = None,
    on_nonfinite: str = "stop",
    on_spike: str = "ignore",
    spike_sigma: float = 6.0,
    spike_window: int = 128,
    gradient_noise_scale: bool = False,
    save_every: int = 1000,
    save_minutes: float = 0.0,
    save_every_epoch: bool = False,
    log_every: int | None = None,
    verbose: bool = False,
    quiet: bool = False,
    log_file: str | Path | None = None,
    sample_every: int = 0,
    sample_prompt: str | Sequence[str] = (),
    sample_prompts: str | Path | None = None,
    sample_tokens: int = 64,
    track: str | Sequence[str] = (),
    track_project: str = "hermes",
    keep_last: int | None = None,
    keep_every: int | None = None,
    keep_best: str | None = None,
    freeze_layers: int = 0,
    freeze: Sequence[str] = (),
    adapter: str | Path | None = None,
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.0,
    lora_targets: str = "all",
    lora_rslora: bool = False,
    dora: bool = False,
    train_new_tokens: bool = True,
    shard: str | None = None,
    shard_group: int | None = None,
    peer_timeout: float | None = None,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    deterministic: bool = False,
    grad_checkpoint: bool = False,
    selective_checkpoint: bool = False,
    compile: bool | None = None,
    push_to_hub: str | None = None,
    push_every_save: bool = False,
    progress: bool | None = None,
    report: Callable[[Event], object] = ignore_event,
    stop: Callable[[], bool] = return_false,
    host: RunHost | None = None,
) -> TrainResult:
    """Train an existing model further on text.

    checkpoint: a checkpoint or run of hermes, a Hugging Face folder, a bare .safetensors with
    `config` for its architecture, or hf://OWNER/REPO. tokenizer: another than the checkpoint's own;
    tokens that the model has no rows for get some. seq_len: None for 256, or the model's
    max_seq_len. lora_rank: above 0, train low-rank adapters on lora_targets ("all", or names with
    commas between) and nothing else but, with train_new_tokens, the rows of tokens that the model
    was never trained on. lora_rslora: scale by alpha / sqrt(rank). dora: train the rows' lengths
    apart. adapter: continue training this one of the model, a run's, PEFT's or mlx-lm's, by its own
    rank, alpha and targets. All other arguments are those of `train`, which also says how
    a run is resumed, interrupted and distributed. Raises HermesError of every kind.
    """
    with join_host(call) as host:
        request = all_or_none(host.process_group, lambda: make_text_request(call, host))
        return run_to_end(request, call, host)


@bind_call
def sft(
    call: Call,
    checkpoint: str | Path | None = None,
    data: str | Path | Sequence[str | Path] = (),
    *,
    format: str | None = None,
    skip_bad_records: bool = False,
    max_bad_records: float = 0.01,
    cache_dir: str | Path | None = None,
    template: str | Path | None = None,
    template_arg: Sequence[str] = (),
    tokenizer: Tokenizer | str | Path | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    output: str | Path = "checkpoints",
    resume: bool = False,
    allow_batch_change: bool = False,
    allow_data_change: bool = False,
    allow_tokenizer_change: bool = False,
    force: bool = False,
    dry_run: bool = False,
    auto_batch: bool = False,
    on_finish: str = "",
    message_token: Sequence[str] = (),
    train_on_prompt: bool = False,
    pack: bool = True,
    overlong: str = "error",
    show_samples: int = 0,
    lr: float = 3e-4,
    batch_size: int = 32,
    batch_size_schedule: str = "",
    grad_accum: int = 1,
    epochs: float = 1,
    max_steps: int = 0,
    train_tokens: int = 0,
    seq_len: int | None = None,
    schedule: str = "constant",
    warmup_steps: int = 0,
    warmup_ratio: float = 0.0,
    min_lr_ratio: float = 0.1,
    decay_ratio: float = 0.1,
    decay_steps: int = 0,
    decay_shape: str = "linear",
    power: float = 2.0,
    lr_point: Sequence[Sequence[str]] = (),
    grad_clip: float = 1.0,
    weight_decay: float = 0.1,
    optimizer: str | OptimizerRecipe | None = None,
    moments: str = "float32",
    group: Sequence[Sequence[str]] = (),
    ema: float = 0.0,
    z_loss: float = 0.0,
    loss_scale: float | LossScaling = 65536.0,
    seed: int = 0,
    val_fraction: float = 0.0,
    eval_every: int = 0,
    patience: int = 0,
    min_delta: float = 0.0,
    eval_tasks: str | Sequence[str] = (),
    eval_tasks_every: int = 0,
    eval_tasks_path: str | Path | None = None,
    eval_tasks_fewshot: int | None = None,
    eval_tasks_limit: float | None = None,
    on_nonfinite: str = "stop",
    on_spike: str = "ignore",
    spike_sigma: float = 6.0,
    spike_window: int = 128,
    gradient_noise_scale: bool = False,
    save_every: int = 1000,
    save_minutes: float = 0.0,
    save_every_epoch: bool = False,
    log_every: int | None = None,
    verbose: bool = False,
    quiet: bool = False,
    log_file: str | Path | None = None,
    sample_every: int = 0,
    sample_prompt: str | Sequence[str] = (),
    sample_prompts: str | Path | None = None,
    sample_tokens: int = 64,
    track: str | Sequence[str] = (),
    track_project: str = "hermes",
    keep_last: int | None = None,
    keep_every: int | None = None,
    keep_best: str | None = None,
    freeze_layers: int = 0,
    freeze: Sequence[str] = (),
    adapter: str | Path | None = None,
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.0,
    lora_targets: str = "all",
    lora_rslora: bool = False,
    dora: bool = False,
    train_new_tokens: bool = True,
    shard: str | None = None,
    shard_group: int | None = None,
    peer_timeout: float | None = None,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    deterministic: bool = False,
    grad_checkpoint: bool = False,
    selective_checkpoint: bool = False,
    compile: bool | None = None,
    push_to_hub: str | None = None,
    push_every_save: bool = False,
    progress: bool | None = None,
    report: Callable[[Event], object] = ignore_event,
    stop: Callable[[], bool] = return_false,
    host: RunHost | None = None,
) -> TrainResult:
    """Supervised finetuning: train on what the assistant says in conversations.

    data: .jsonl, .json or .csv whose records have `messages`, ShareGPT's `conversations`, `prompt`
    and `completion`, or `instruction`, `input` and `output`, or are plain text. skip_bad_records,
    max_bad_records: as in `train`. cache_dir: keeps what they are encoded as. Only the
    assistant's tokens and the ends of its turns are trained on, each with equal weight, but no turn
    of weight 0; train_on_prompt: every token. template: a Jinja file instead of the checkpoint's
    chat template; template_arg: its arguments, such as "enable_thinking=false". message_token:
    special tokens that messages may contain, such as "<think>". seq_len: tokens per row, None for
    1024 or the model's max_seq_len. pack: several conversations share a row, none of which attends
    to another. overlong: 'error', 'drop' or 'truncate', for a conversation longer than a row.
    show_samples: show the first ones as they are trained on.

    checkpoint and adapters are as in `finetune`, all other arguments as in `train`, which also says
    how a run is resumed, interrupted and distributed. Raises HermesError of every kind.
    """
    check_show_samples(call)
    call = apply_run_settings(call, "pack", "train_on_prompt", "template_arg", "message_token")
    with join_host(call) as host:
        base = all_or_none(host.process_group, lambda: choose_base_model(call, chat=True))
        fields = make_finetuning_fields(call, base, LONGEST_ROW)
        files = expand_paths(list_files(call))
        bad = make_bad_records(call)
        samples = SFTData(
            read_conversations(files, file_format=call["format"], bad=bad),
            base.encoder,
            bad=bad,
            cache=make_example_cache(call, host),
            files=len(files),
            whole=call["train_on_prompt"],
            pack=call["pack"],
            overlong=call["overlong"],
            show=lambda examples: show_examples(
                host, base.tokenizer, examples[: call["show_samples"]]
            ),
        )
        request = make_finetuning_request(
            call, host, base, fields, make_data=samples.make_training_data
        )
        return run_to_end(request, call, host)
