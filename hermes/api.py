"""The public function `train`, and what it shares with those that finetune.

All of them are called by way of `bind_call`, and train by `run_to_end`; the command line calls
them, too. Arguments have the names and defaults of the command's options. They are checked and
converted before anything is read, and NumPy's numbers are taken as Python's.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import Any, Concatenate, ParamSpec, TypeVar

from hermes.api_checks import check_training_call, check_vocab_size, make_call
from hermes.arguments import (
    Call,
    list_argument_names,
    name_arguments,
)
from hermes.distributed.agreement import all_or_none
from hermes.distributed.join import find_rank_info
from hermes.errors import HermesError, Interrupted
from hermes.finetuning.options import apply_run_settings, make_text_request
from hermes.interop.architecture import read_architecture
from hermes.recipe import LossScaling, OptimizerRecipe
from hermes.spec import ModelSpec
from hermes.stages import show_stages
from hermes.storage.log_file import LogFile
from hermes.tasks.rounds import choose_rounds
from hermes.tokenizer import Tokenizer
from hermes.training.events import Event
from hermes.training.exhaustion import explain_training_memory
from hermes.training.finish_command import FinishCommand
from hermes.training.host import RunHost, join_host, tell_warning
from hermes.training.interrupts import DeferredInterrupt
from hermes.training.metrics_file import read_losses
from hermes.training.new_tokenizer import (
    choose_tokenizer,
    save_new_tokenizer,
)
from hermes.training.options import (
    ROW_OPTIONS,
    list_names,
    make_data_options,
    make_request,
    make_row_options,
    read_recipe_fields,
)
from hermes.training.progress_bar import describe_event, open_progress
from hermes.training.request import RunRequest
from hermes.training.result import ResultCollector, TrainResult
from hermes.training.run import Run, check_output, has_checkpoint, open_run
from hermes.training.tracking import deliver, open_trackers

__all__ = ["bind_call", "ignore_event", "return_false", "run_to_end", "train"]

P = ParamSpec("P")
R = TypeVar("R")


def ignore_event(event: Event) -> None:
    """Do nothing: the default of `report`."""


def return_false() -> bool:
    """Return False: the default of `stop`."""
    return False


def bind_call(function: Callable[Concatenate[Call, P], R]) -> Callable[P, R]:
    """Hand a public function its arguments as a Call, checked, converted, and which were given.

    The public signature has all parameters but that first one.
    """
    signature = inspect.signature(function)
    public = signature.replace(parameters=list(signature.parameters.values())[1:])
    names = list_argument_names(public)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = make_call(function, public, args, kwargs)
        try:
            if bound["host"] is None and find_rank_info(os.environ, bound["peer_timeout"]) is None:
                _check_call(bound)
            return function(bound, *args, **kwargs)
        except HermesError as error:
            if bound["host"] is None:
                error.args = (name_arguments(str(error), names), *error.args[1:])
            raise

    call.__signature__ = public  # type: ignore[attr-defined]  # read by inspect and help()
    return call


def _check_call(call: Call) -> None:
    """Refuse what needs no backend to be refused; --on-finish runs after that, too."""
    try:
        check_training_call(call)
    except HermesError:
        command = "" if call["dry_run"] else call["on_finish"]
        with FinishCommand(command, call["output"], tell_warning):
            raise


def run_to_end(
    request: RunRequest,
    call: Call,
    host: RunHost,
    on_start: Callable[[], object] = lambda: None,
) -> TrainResult:
    """Train what is requested to its end, or until it is asked to stop.

    on_start: called in rank 0 once nothing can refuse the run. Raises KeyboardInterrupt after
    Ctrl-C, once the run is saved.
    """
    report, uploads = call["report"], host.uploads
    tasks = all_or_none(host.process_group, lambda: choose_rounds(call))
    request = replace(request, tasks=tasks)

    def show_prepared(run: Run) -> None:
        for note in run.notes if host.leads else ():
            host.tell(note)
        host.on_prepared(run)

    with open_run(request, show_prepared) as run, DeferredInterrupt() as interrupt:
        if host.leads and not (run.finished or request.dry_run):
            on_start()
        host.on_open(run)
        if request.dry_run:
            result = ResultCollector(run).result
            run.discard()
            return result

        def stop() -> bool:
            return interrupt.came or host.stop() or call["stop"]()

        collector = ResultCollector(run)
        shows = host.leads and not run.finished and not call["quiet"]
        progress, verbose = call["progress"] if shows else False, call["verbose"]
        total, done = run.total_steps, run.position.step
        losses = () if progress is False else read_losses(request.output, done)
        log_file = Path(call["log_file"]) if host.leads and call["log_file"] else None
        with (
            LogFile(log_file) as log,
            closing(open_progress(total, done, progress, verbose=verbose, losses=losses)) as shown,
            show_stages(shown.show_stage),
            open_trackers(run, host.tell) as trackers,
            explain_training_memory(request, run.components.recipe, run.components.spec.name),
        ):
            log.say(
                f"run {request.output}: from step {run.position.step:,} to {run.total_steps:,}, "
                f"{run.components.spec.name}, {request.backend.name} on {request.device}"
            )
            for note in run.notes:
                log.say(note)
            for event in run.train(stop):
                collector.add(event)
                shown.show(event)
                log.say(describe_event(event))
                deliver(trackers, event)
                report(event)
                if uploads is not None and host.leads:
                    uploads.push_saved(event)
        result = collector.result
    if interrupt.came and not result.finished:
        stopped = (
            f"stopped at step {result.steps:,} of {run.total_steps:,} and saved in "
            f"{result.checkpoint}; resume=True continues the run"
        )
        raise (KeyboardInterrupt if interrupt.number == SIGINT else Interrupted)(stopped)
    if uploads is not None and host.leads:
        uploads.last = result.checkpoint
    return result


@bind_call
def train(
    call: Call,
    model: ModelSpec | str | Path = "tiny",
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
    train_tokenizer: bool = False,
    vocab_size: int = 32_000,
    force_retrain_tokenizer: bool = False,
    eos: str | None = None,
    bos: bool | None = None,
    checkpoint: str | Path | None = None,
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
    cooldown_from: str | Path | None = None,
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
    """Train a model from scratch, or resume the run in `output`.

    model: a bundled name, a MAL file or text, or a ModelSpec. data: files, folders, patterns or
    addresses of text (.txt, .jsonl, .json, .csv, .tsv, .parquet, also compressed), `format` instead
    of a file's ending, `text_field` the field that holds the text; or token files (.bin), or a
    folder that `prepare` made. A mixture is 'NAME=FILES:WEIGHT' for each source, or a mapping
    {name: {'files': ..., 'weight': 0.7}, 'schedule': {step: {name: weight}}}. documents: what is
    one of plain text: 'file', 'lines' or 'blank-line'. no_header: a document is a row of .csv or
    .tsv, its cells joined.
    skip_bad_records: leave them out, up to the share max_bad_records. cache_dir: where the tokens
    of text are kept for the next start. val_data: validation text of its own; val_fraction: a share
    of `data` instead, its last 'windows' or whole 'documents' as hold_out says. document_mask:
    attention and positions stay inside each document. pack: False gives each document a row of its
    own, padded; overlong: 'error', 'drop' or 'truncate', for one longer than that. tokenizer: a
    Tokenizer, a tokenizer.json, a folder or hf://OWNER/REPO; train_tokenizer: train one of
    vocab_size on the data first, and save it with its manifest where `tokenizer` says; one that is
    there is taken if its manifest fits, and replaced with force_retrain_tokenizer. eos: the token
    that ends a text, and bos: whether one begins with BOS; None for what the files beside the
    tokenizer say. checkpoint: start from it as `finetune` does. ignore_fields: as in `load`.

    resume: continue the run in `output`, or start it. Arguments that are left out are then the
    run's own; others must not make it another run. allow_batch_change lets steps take another
    number of samples, allow_data_change other data, allow_tokenizer_change a tokenizer whose ids
    mean other tokens than those of the checkpoint. force: train although memory or disk seem too
    small. dry_run: check everything that can be refused, and return without training or writing a
    run; tokens are cached.
    auto_batch: choose batch_size and grad_accum so that a step fits into memory, with as many
    samples per step as they say.

    cooldown_from: a checkpoint at the full learning rate of a constant or wsd schedule, which the
    run continues with a fall to its end; decay_steps says how long.

    eval_tasks: names of lm-evaluation-harness's tasks, as in `evaluate`, on which the model is
    evaluated every eval_tasks_every steps and at the end, each time behind a checkpoint (extra
    `tasks`); eval_tasks_path, eval_tasks_fewshot, eval_tasks_limit: its include_path, num_fewshot
    and limit. What makes them fail does not end the run.

    lr to freeze: fields of `hermes.Recipe`; optimizer: its name, or all of its settings at once;
    loss_scale: the first under precision float16, or all settings of its scaling.
    group: ('lm_head.*', 'lr=1e-3,weight_decay=0') for each glob of tensors' names; lr_point:
    ('50%', '0.3') for each point of the schedule. log_every: None for every step, or every tenth of
    a run of 10,000 and more. keep_last, keep_every, keep_best: which checkpoints stay, all by
    default. shard to compile: fields of `hermes.interface.Options`. peer_timeout: seconds until a
    silent rank counts as lost, 45 by default, or 600 before the first step where it may be at work.
    push_to_hub: OWNER/REPO that gets the model at the end, and with
    push_every_save each checkpoint.

    progress: True shows a bar in a terminal or notebook and lines elsewhere, False nothing; None a
    bar where one can be drawn. verbose: a line for every logged step instead; quiet: nothing but
    warnings and errors; log_file: gets a line for every logged step and event, too. report: called
    with every event. stop: polled after every step; the run is saved where it says True. host: the
    program that shows the run itself.

    Under torchrun, srun, mpirun or mlx.launch all processes make one run together. Ctrl-C finishes
    the step and saves, and then raises KeyboardInterrupt; SIGTERM does so too and raises
    Interrupted; a second signal raises at once. Only rank 0 writes: another rank may return before
    the last checkpoint is whole. Raises HermesError of every kind; what was saved stays.
    """
    with join_host(call) as host:
        request = all_or_none(host.process_group, lambda: _make_train_request(call, host))
        return run_to_end(request, call, host, lambda: save_new_tokenizer(call, request.tokenizer))


def _make_train_request(call: Call, host: RunHost) -> RunRequest:
    if call["checkpoint"] is not None:
        for name in ("model", "train_tokenizer", "force_retrain_tokenizer", "vocab_size"):
            if call.has_given(name):
                raise HermesError(f"{name} belongs to a new model; leave checkpoint out")
        return make_text_request(call, host)
    if call["host"] is None:
        check_vocab_size(call)
    if host.leads:
        check_output(Path(call["output"]), resume=call["resume"])
    call = apply_run_settings(call, *ROW_OPTIONS)
    resuming = call["resume"] and has_checkpoint(call["output"])
    resuming = resuming or call["cooldown_from"] is not None
    model, spec = call["model"], None
    if not resuming or call.has_given("model"):
        if not isinstance(model, ModelSpec):
            model = read_architecture(model, call["ignore_fields"])
        spec = model
    return make_request(
        call,
        host,
        read_recipe_fields(call),
        spec=spec,
        tokenizer=choose_tokenizer(call, host, resuming),
        data_options=make_data_options(call, host),
        validation=list_names(call["val_data"]),
        rows=make_row_options(call),
        cooldown_from=None if call["cooldown_from"] is None else Path(call["cooldown_from"]),
    )
