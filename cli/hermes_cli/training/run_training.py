"""What `hermes train` does: options to a request, a request to a run, a run to the terminal."""

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from hermes.distributed.environment import find_launcher, read_rank_info
from hermes.distributed.process_group import ProcessGroup
from hermes.errors import HermesError, Interrupted
from hermes_cli.display.run_summary import summarize_run
from hermes_cli.launch.crash_log import CrashLog
from hermes_cli.launch.join import backend_of, joined
from hermes_cli.launch.launcher import starts
from hermes_cli.launch.signals import Signals
from hermes_cli.options.config_file import COMMAND_LINE
from hermes_cli.options.declarations import TableOption
from hermes_cli.options.resolve import (
    ResolvedOptions,
    collect_recipe_fields,
    collect_settings,
    require_same_options,
)
from hermes_cli.training.hub_upload import EverySave, Push, push_at_end, push_of

if TYPE_CHECKING:
    from hermes.api import Result
    from hermes.checkpoint import RetentionPolicy
    from hermes.interface import Options
    from hermes.spec import ModelSpec
    from hermes.tokenizer import Tokenizer
    from hermes.training.events import Event
    from hermes.training.run import Run, RunRequest


def _spec(options: ResolvedOptions, resuming: bool) -> "ModelSpec | None":
    """The model asked for; None for the run's own."""
    from hermes import mal

    edits = {k.removeprefix("model."): v for k, v in options.edits.items() if k[:6] == "model."}
    if resuming and not options.is_given("model") and not edits:
        return None
    spec = mal.load(options["model"])
    return mal.edit_all(spec, edits) if edits else spec


def data_of(options: ResolvedOptions, stack: ExitStack) -> tuple[str, ...]:
    """The files to read; standard input is kept in a file where it has to be read twice."""
    data = tuple(options["data"]) or ("-",)
    if "-" not in data:
        return data
    if sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input")
    if not options.values.get("train_tokenizer"):
        return data
    from hermes.data import spool

    folder = stack.enter_context(TemporaryDirectory(prefix="hermes-"))
    kept = str(spool(sys.stdin.buffer, folder, file_format=options["format"] or "txt"))
    return tuple(kept if name == "-" else name for name in data)


def _tokenizer(
    options: ResolvedOptions, data: tuple[str, ...], resuming: bool, process_group: ProcessGroup
) -> "Tokenizer | None":
    """The tokenizer asked for; None for the run's own."""
    from hermes.distributed.agreement import all_or_none
    from hermes.interop.hub import load_tokenizer
    from hermes.tokenizer import Tokenizer

    path = options["tokenizer"]
    if resuming:
        return (
            load_tokenizer(path) if path and options.sources["tokenizer"] == COMMAND_LINE else None
        )
    if not options["train_tokenizer"]:
        return load_tokenizer(path) if path else None
    if path and Path(path).exists():
        if options["resume"]:  # an earlier attempt learnt it, and was stopped before it saved
            return load_tokenizer(path)
        raise HermesError(f"{path} is there already; leave --train-tokenizer out to use it")
    rank = process_group.rank_info.rank
    learnt = all_or_none(process_group, lambda: None if rank else _learnt(options, data))
    if process_group.rank_info.world_size == 1:
        return learnt
    return Tokenizer.from_json(process_group.all_gather_text(learnt.to_json() if learnt else "")[0])


def _learnt(options: ResolvedOptions, data: tuple[str, ...]) -> "Tokenizer":
    from hermes.api import train_tokenizer

    click.echo("training a tokenizer on the data", err=True)
    learnt = train_tokenizer(
        data,
        vocab_size=options["vocab_size"],
        text_field=options["text_field"],
        file_format=options["format"],
    )
    for warning in learnt.training.warnings if learnt.training else ():
        click.echo(f"Warning: {warning}", err=True)
    return learnt


def run_training(context: click.Context, signals: Signals) -> None:
    """Do what the command line asks."""
    from hermes.distributed.agreement import all_or_none
    from hermes.training.run import RunRequest, check_output

    options = ResolvedOptions(context)
    push = push_of(options)
    output = Path(options["output"])
    if read_rank_info(os.environ) is None:
        check_output(output, resume=options["resume"])
    if starts(context, options, signals):
        return
    backend = backend_of(options["backend"], os.environ)
    process_group, where = joined(context, options, backend, realised(options), signals)
    with ExitStack() as stack:
        stack.enter_context(CrashLog(process_group, output))
        require_same_options(context.info_name or "train", options, backend, process_group)
        blank = RunRequest(
            output,
            (),
            backend,
            options=where,
            process_group=process_group,
            split_among=options.split_among,
        )
        # The others wait for one that refuses, as rank 0 does a folder of another run.
        request = all_or_none(process_group, lambda: _request(options, blank, stack))
        tokenizer = request.tokenizer

        def begun() -> None:
            if tokenizer is not None and options["train_tokenizer"] and options["tokenizer"]:
                tokenizer.save(options["tokenizer"])

        piped = "-" in (options["data"] or ("-",))
        carry_out(context, request, signals, begun=begun, from_stdin=piped, push=push)


def _request(options: ResolvedOptions, blank: "RunRequest", stack: ExitStack) -> "RunRequest":
    """What is asked of a run of which it is known where it is trained and by whom."""
    from hermes.checkpoint import list_steps
    from hermes.training.run import check_output

    if blank.process_group.rank_info.rank == 0:
        check_output(blank.output, resume=options["resume"])
    resuming = options["resume"] and bool(list_steps(blank.output))
    spec = _spec(options, resuming)
    data = data_of(options, stack)
    return replace(
        blank,
        data=data,
        spec=spec,
        tokenizer=_tokenizer(options, data, resuming, blank.process_group),
        given=collect_recipe_fields(options),
        resume=options["resume"],
        allow_batch_change=options["allow_batch_change"],
        log_every=options["log_every"],
        keep=kept(options),
        text_field=options["text_field"],
        file_format=options["format"],
        settings=collect_settings(options),
        sources=options.sources,
    )


def realised(options: ResolvedOptions) -> "Options":
    """Where and how fast."""
    from hermes.interface import Options

    return Options(
        device=options["device"],
        precision=options["precision"],
        compile=options["compile"],
        grad_checkpoint=options["grad_checkpoint"],
        deterministic=options["deterministic"],
        shard=options["shard"],
        shard_group=options["shard_group"],
    )


def kept(options: ResolvedOptions) -> "RetentionPolicy":
    """Which checkpoints stay."""
    from hermes.checkpoint import RetentionPolicy

    return RetentionPolicy(
        last=options["keep_last"], every=options["keep_every"], best=options["keep_best"]
    )


def carry_out(
    context: click.Context,
    request: "RunRequest",
    signals: Signals,
    *,
    begun: Callable[[], None] = lambda: None,
    from_stdin: bool = False,
    push: Push | None = None,
) -> None:
    """Train what is requested, showing how it goes.

    begun: called when nothing can refuse it. push: which repository gets the model.
    """
    if push is None:
        _carry_out(context, request, signals, begun, from_stdin)
        return
    # What could not be pushed after the training is refused before it.
    from hermes.distributed.agreement import all_or_none
    from hermes.interop.publish import require_writable

    first = request.process_group.rank_info.rank == 0
    with CrashLog(request.process_group, request.output):
        all_or_none(request.process_group, lambda: require_writable(push.repo) if first else None)
    with EverySave(push.repo) as saves:
        see = saves.see if push.every_save else lambda event: None
        trained = _carry_out(context, request, signals, begun, from_stdin, see)
    if trained is not None and trained not in saves.pushed:
        push_at_end(trained, push.repo)


def _carry_out(
    context: click.Context,
    request: "RunRequest",
    signals: Signals,
    begun: Callable[[], None],
    from_stdin: bool,
    see: "Callable[[Event], None]" = lambda event: None,
) -> Path | None:
    """The checkpoint at the run's end, None in a process that only helps."""
    from hermes.api import collect
    from hermes.training.run import open_run

    process_group = request.process_group
    journal = CrashLog(process_group, request.output)
    with closing(process_group), journal, open_run(request) as run:
        if process_group.rank_info.rank > 0:
            signals.polled = True
            stop = journal.polling(signals.asked)
            if not run.finished and not collect(run, lambda event: None, stop).finished:
                raise Interrupted("rank 0 says where")
            return None
        for note in run.notes:
            click.echo(note, err=True)
        if run.finished:
            words = f"run {request.output} is finished at step {run.position.step:,}"
            if run.position.step > run.total_steps:
                words += f", past the {run.total_steps:,} asked for"
            click.echo(f"{words}; nothing is left to do", err=True)
            return run.checkpoint.path if run.checkpoint else None
        begun()
        signals.polled = True
        result = _show(run, journal.polling(signals.asked), see)
        _finish(run, result, _again(context, result.output), from_stdin)
        return result.checkpoint


def _show(run: "Run", stop: Callable[[], bool], see: "Callable[[Event], None]") -> "Result":
    """Train with a bar or with lines; see: called with each event, too."""
    from hermes.api import collect
    from hermes_cli.display.progress_bar import make_reporter

    for line in summarize_run(run):
        click.echo(line, err=True)
    shown = make_reporter(run.total_steps, run.position.step)

    def report(event: "Event") -> None:
        shown.show(event)
        see(event)

    try:
        return collect(run, report, stop)
    finally:
        shown.close()


def _again(context: click.Context, output: Path) -> str:
    """The command that goes on: what no run.yaml keeps stands in it as it was typed."""
    words = ["hermes", context.info_name or "train", "--resume", "--output", str(output)]
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        repeated = isinstance(option, TableOption) and option.entry.repeated
        if repeated and source is click.core.ParameterSource.COMMANDLINE:
            value = context.params[name]
            on, off = option.opts[0], [*option.secondary_opts, ""][0]
            words += [on if value else off] if isinstance(value, bool) else [on, str(value)]
    launcher = find_launcher(os.environ)
    return shlex.join(words) + (f", started by {launcher} as before" if launcher else "")


def _finish(run: "Run", result: "Result", again: str, from_stdin: bool) -> None:
    if not result.finished:
        more = " and the same text on standard input" if from_stdin else ""
        raise Interrupted(
            f"stopped at step {result.steps:,} of {run.total_steps:,} and saved; go on with: "
            f"{again}{more}"
        )
    losses = [] if result.loss is None else [f"loss {result.loss:.4f}"]
    if result.val_loss is not None:
        losses.append(f"validation loss {result.val_loss:.4f}")
    if result.val_bits_per_byte is not None:
        losses.append(f"{result.val_bits_per_byte:.4f} bits per byte")
    click.echo(f"done: {', '.join(losses)}; {result.checkpoint}", err=True)
