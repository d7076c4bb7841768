"""The public function that trains a model on preferences between answers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hermes.api import bind_call, ignore_event, return_false, run_to_end
from hermes.arguments import Call
from hermes.data.file_names import expand_paths
from hermes.data.preferences import read_pairs
from hermes.distributed.agreement import all_or_none
from hermes.finetuning.dpo import DPOData
from hermes.finetuning.options import (
    apply_run_settings,
    check_preference_options,
    check_show_samples,
    choose_base_model,
    choose_reference_weights,
    make_bad_records,
    make_example_cache,
    make_finetuning_fields,
    make_finetuning_request,
)
from hermes.finetuning.sft import show_examples
from hermes.recipe import LossScaling, OptimizerRecipe
from hermes.tokenizer import Tokenizer
from hermes.training.events import Event
from hermes.training.host import RunHost, join_host
from hermes.training.options import list_files
from hermes.training.result import TrainResult

__all__ = ["dpo"]

LONGEST_SIDE = 512  # default tokens per sample


@bind_call
def dpo(
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
    no_template: bool = False,
    message_token: Sequence[str] = (),
    show_samples: int = 0,
    tokenizer: Tokenizer | str | Path | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    output: str | Path = "checkpoints-dpo",
    resume: bool = False,
    allow_batch_change: bool = False,
    allow_data_change: bool = False,
    allow_tokenizer_change: bool = False,
    force: bool = False,
    dry_run: bool = False,
    auto_batch: bool = False,
    on_finish: str = "",
    beta: float = 0.1,
    max_len: int | None = None,
    drop_overlong: bool = False,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    gamma: float = 0.5,
    sft_weight: float = 0.0,
    reference_cache: str | Path | None = None,
    lr: float = 5e-7,
    batch_size: int = 4,
    batch_size_schedule: str = "",
    grad_accum: int = 1,
    epochs: float = 1,
    max_steps: int = 0,
    train_tokens: int = 0,
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
    """Preference optimization: DPO and its relatives.

    data: .jsonl, .json or .csv whose records have `prompt`, `chosen` and `rejected`, as strings or
    lists of messages, or `chosen` and `rejected` as whole dialogues with a common beginning.
    skip_bad_records, max_bad_records, cache_dir, template_arg, message_token, show_samples: as in
    `sft`. no_template: strings are plain text. loss: 'sigmoid'
    (DPO; with label_smoothing cDPO), 'ipo', 'hinge', 'orpo' or 'simpo'; beta: strength of the pull
    to the reference; gamma: SimPO's target margin; sft_weight: weight of the chosen completion's
    mean token loss, added. max_len: tokens per side, None for 512 or the model's max_seq_len;
    prompts lose their oldest turns, but not the system prompt, and a pair whose completion does not
    fit is refused, or left out with drop_overlong. The checkpoint's own log-probabilities are
    computed once and kept in reference_cache, by default in the run's folder.

    checkpoint and adapters are as in `finetune`, all other arguments as in `train`, which also says
    how a run is resumed, interrupted and distributed. Raises HermesError of every kind.
    """
    check_preference_options(call)
    check_show_samples(call)
    call = apply_run_settings(call, "no_template", "template_arg", "message_token")
    with join_host(call) as host:
        chat = not call["no_template"]
        base = all_or_none(host.process_group, lambda: choose_base_model(call, chat=chat))
        fields = make_finetuning_fields(call, base, LONGEST_SIDE)
        cache = call["reference_cache"]
        files = expand_paths(list_files(call))
        bad = make_bad_records(call)
        samples = DPOData(
            read_pairs(files, file_format=call["format"], bad=bad),
            base,
            host.backend,
            host.options,
            Path(call["output"]),
            reference_cache=Path(cache) if cache else None,
            bad=bad,
            cache=make_example_cache(call, host),
            keeps_reference=not call["dry_run"],
            show=lambda examples: show_examples(
                host, base.tokenizer, examples[: 2 * call["show_samples"]]
            ),
            use_template=chat,
            drop=call["drop_overlong"],
            files=len(files),
            base=choose_reference_weights(call, base),
            named=call["resume"] and call.has_given("checkpoint"),
            stop=lambda: host.stop() or call["stop"](),
        )
        request = make_finetuning_request(
            call,
            host,
            base,
            fields | {"objective": "preference"},
            make_data=samples.make_training_data,
        )
        return run_to_end(request, call, host)
