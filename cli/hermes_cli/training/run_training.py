"""What `hermes train`, `finetune`, `sft` and `dpo` do: options to a call of the library."""

import inspect
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import hermes
from hermes.arguments import check_verbosity
from hermes.distributed.agreement import all_or_none
from hermes.distributed.environment import find_launcher, read_rank_info
from hermes.errors import HermesError, Interrupted
from hermes.options import OPTIONS
from hermes.stages import hide_stages, report_stage
from hermes.storage.temporary import TemporaryFolder
from hermes_cli.display.run_summary import summarize_model, summarize_run
from hermes_cli.launch.compilers import end_compilers
from hermes_cli.launch.crash_log import CrashLog
from hermes_cli.launch.join import find_launched_backend, join
from hermes_cli.launch.launcher import start_workers
from hermes_cli.launch.signals import FIRST_STEP_GRACE, GRACE, Signals
from hermes_cli.options.config_file import COMMAND_LINE
from hermes_cli.options.declarations import TableOption
from hermes_cli.options.print_config import render_config
from hermes_cli.options.resolve import (
    RECIPE_FIELDS,
    ResolvedOptions,
    collect_recipe_fields,
    collect_settings,
    require_same_options,
)

if TYPE_CHECKING:
    from hermes.chat_templates.example import Example
    from hermes.recipe import Recipe
    from hermes.spec import ModelSpec
    from hermes.tokenizer import Tokenizer
    from hermes.training.request import RunRequest
    from hermes.training.result import TrainResult
    from hermes.training.run import Run

__all__ = ["train_run"]

STOPPING = "stopping after this step; again to end at once"

LORA = (
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora", "dora"),
    "train_new_tokens",
)
# What `hermes train` has no use for where it starts from a model.
OF_A_NEW_MODEL = ("train_tokenizer", "force_retrain_tokenizer", "vocab_size", "cooldown_from")
# Of a resumed run these are its own where they are not given.
RESUMED = (*RECIPE_FIELDS, *LORA, "model", "tokenizer", "template", "checkpoint")


@click.pass_context
def train_run(context: click.Context, /, **_: Any) -> None:
    """Train as the options of the command say, in this process or in workers that are started.

    The body of `hermes train`, `finetune`, `sft` and `dpo`. Raises Interrupted where the run was
    stopped and saved, and HermesError of every kind.
    """
    from hermes.training.finish_command import FinishCommand

    command = context.command.name or "train"
    # Of several processes the one that starts them sees the end of all, else rank 0.
    rank_info = read_rank_info(os.environ)
    leads = rank_info is None or (rank_info.rank == 0 and find_launcher(os.environ) is not None)
    typed = context.params
    trains = leads and not (typed["dry_run"] or typed["print_config"])
    signals: Signals = context.find_root().obj.signals
    at_once = typed["on_finish"] if trains else ""
    finish = FinishCommand(at_once, typed["output"], _tell, lambda: _let_finish(signals))
    signals.on_overdue = finish.run_stopped
    with finish:
        from hermes.training.host import RunHost, make_options
        from hermes.training.hub_upload import HubUploads, read_push, require_writable_repo
        from hermes_cli.training.hub_upload import push_model

        takes_model = command != "train" or bool(typed["checkpoint"])
        options = ResolvedOptions(context, model_config=takes_model)
        if command == "train" and _is_tuning(options, typed["checkpoint"]):
            command = "finetune"
        if options["print_config"]:
            finish.change("", options["output"], _tell)
            click.echo(render_config(options))
            return
        check_verbosity(options["verbose"], options["quiet"])
        if options["quiet"]:
            context.with_resource(hide_stages())
        tell = _tell_warning if options["quiet"] else _tell
        trains = leads and not options["dry_run"]
        finish.change(options["on_finish"] if trains else "", options["output"], tell)
        output = Path(options["output"])
        push = read_push(options["push_to_hub"], options["push_every_save"])
        function: Callable[..., TrainResult] = getattr(hermes, command)
        _check(options, command, function)
        if start_workers(context, options, signals, STOPPING):
            return
        backend = find_launched_backend(options["backend"], os.environ)
        where = make_options(options.values, backend)
        options.values["precision"] = where.precision  # what "auto" comes to, as in all ranks
        process_group, where = join(context, options, backend, where, signals)
        crash_log = CrashLog(process_group, output)
        leads = process_group.rank_info.rank == 0
        uploading = HubUploads(push, tell, push_model)
        with uploading as uploads, closing(process_group), crash_log:
            require_same_options(context.info_name or command, options, backend, process_group)
            require_writable_repo(push, process_group)
            progress = RunProgress(context, options, signals, crash_log, leads, tell)
            host = RunHost(
                backend,
                where,
                process_group,
                make_settings=lambda call: (collect_settings(options), options.sources),
                edits=collect_recipe_fields(options),
                split_among=options.split_among,
                tell=tell if leads else _keep_quiet,
                on_model=progress.describe_model,
                on_prepared=progress.describe_run,
                on_open=progress.open,
                show_example=_show_example,
                stop=progress.should_stop,
                uploads=uploads,
            )
            with ExitStack() as stack:
                # A refusal of one rank must reach the others, which wait for it.
                arguments = all_or_none(
                    process_group,
                    lambda: _read_arguments(
                        options, command, function, _collect_files(options, stack)
                    ),
                )
                result = function(**arguments, host=host, progress=leads)
            if not options["dry_run"]:
                progress.report_end(result)
            elif leads:
                tell("dry run: nothing is trained, and no run is written")


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _tell_warning(line: str) -> None:
    """Say what --quiet lets through."""
    if line.startswith("Warning: "):
        _tell(line)


def _keep_quiet(line: str) -> None:
    pass


def _let_finish(signals: Signals) -> None:
    """Let --on-finish take its time where a signal has ended the run; a second one cuts it short.

    In a run that has ended, the first one does.
    """
    if signals.has_come():
        signals.grace = None


def _check(options: ResolvedOptions, command: str, function: "Callable[..., TrainResult]") -> None:
    """Refuse what needs no backend and no data to be refused. Raises HermesError.

    A process that a launcher started looks at its own arguments once it can tell the other ranks.
    """
    from hermes.api_checks import check_arguments

    edits = [key for key in options.edits if key.startswith("model.")]
    if command != "train" and edits and not options.is_resumed:
        raise HermesError(f"--set {edits[0]}: the architecture is the checkpoint's; leave it out")
    recipe_edits = collect_recipe_fields(options)
    if "-" in (options["data"] or ("-",)) and sys.stdin.isatty():
        what = "text" if command == "train" else "records"
        raise HermesError(f"no data: give --data F, or {what} on standard input")
    if read_rank_info(os.environ) is None:
        arguments = _read_arguments(options, command, function, _list_data(options))
        check_arguments(function, arguments, recipe_edits)


def _read_arguments(
    options: ResolvedOptions,
    command: str,
    function: "Callable[..., TrainResult]",
    data: tuple[str, ...],
) -> dict[str, Any]:
    """The arguments of the library's function; what it is not given is a resumed run's own."""
    known = inspect.signature(function).parameters
    names = [name for name in options.values if name in known and name not in ("config", "data")]
    given = {
        name: options[name]
        for name in names
        if _has_meaning(options, name) and (name not in RESUMED or options.is_given(name))
    }
    if any(name in given for name in LORA):
        given |= {name: options[name] for name in LORA if _has_meaning(options, name)}
    if command == "train":
        given |= _read_model(options)
    else:
        given["config"] = options.model_config or _find_named_model(options)
    for name in ("push_to_hub", "push_every_save"):  # this command's own uploads do it
        given.pop(name, None)
    return given | {"data": data}


def _is_tuning(options: ResolvedOptions, typed: str | None) -> bool:
    """Whether `hermes train` has a model to start from, which makes it what finetune does.

    Raises HermesError for what only a new model has.
    """
    if not typed and (options.is_resumed or not options["checkpoint"]):
        return False
    for name in OF_A_NEW_MODEL:
        if options.sources[name] == COMMAND_LINE:
            flag = f"--{name.replace('_', '-')}"
            raise HermesError(f"{flag} belongs to a new model; leave --checkpoint out")
    return True


def _find_named_model(options: ResolvedOptions) -> str | None:
    """The architecture of a model to start from that `hermes train --model` names, else None.

    A run.yaml has the option's default where it was not given.
    """
    name: str | None = options.values.get("model")
    is_typed = options.sources.get("model") == COMMAND_LINE
    return name if is_typed or name != OPTIONS["model"].default else None


def _has_meaning(options: ResolvedOptions, name: str) -> bool:
    """Whether a given option has one beside the others; from the command line it is refused."""
    if options.sources.get(name) == COMMAND_LINE:
        return True
    if name == "gamma":
        return bool(options["loss"] == "simpo")
    if name == "reference_cache":
        return options["loss"] not in ("orpo", "simpo")
    return name not in LORA or bool(options["lora_rank"])


def _read_model(options: ResolvedOptions) -> dict[str, Any]:
    """The model asked for, edited by --set model.KEY; nothing for a resumed run's own."""
    from hermes import mal
    from hermes.interop.architecture import read_architecture

    edits = options.list_model_edits()
    continues = options.is_resumed or options["cooldown_from"]
    if continues and not options.is_given("model") and not edits:
        return {}
    spec = read_architecture(options["model"], options["ignore_fields"])
    return {"model": mal.edit_all(spec, edits) if edits else spec}


def _list_data(options: ResolvedOptions) -> tuple[str, ...]:
    return tuple(options["data"]) or ("-",)


def _collect_files(options: ResolvedOptions, stack: ExitStack) -> tuple[str, ...]:
    """The files to read; standard input is kept in a file where it has to be read twice."""
    data = _list_data(options)
    if "-" not in data or not options.values.get("train_tokenizer"):
        return data
    from hermes.data import spool

    folder = stack.enter_context(TemporaryFolder("input"))
    kept = str(spool(sys.stdin.buffer, folder, file_format=options["format"] or "txt"))
    return tuple(kept if name == "-" else name for name in data)


@dataclass
class RunProgress:
    """What this rank says at a run's start and end, and whether it was asked to stop."""

    context: click.Context
    options: ResolvedOptions
    signals: Signals
    crash_log: CrashLog
    leads: bool
    tell: Callable[[str], None] = _tell
    run: "Run | None" = None
    stop: Callable[[], bool] | None = field(default=None)
    has_described_model: bool = False

    def describe_model(self, request: "RunRequest", spec: "ModelSpec", recipe: "Recipe") -> None:
        """Say what is trained, before its data is read."""
        self.has_described_model = True
        report_stage("")
        for line in summarize_model(request, spec, recipe) if self.leads else ():
            self.tell(line)

    def describe_run(self, run: "Run") -> None:
        """Say what is about to be trained, before its model is built."""
        if run.finished or not self.leads:
            return
        if not self.has_described_model:
            parts = run.components
            self.describe_model(run.request, parts.spec, parts.recipe)
        for line in summarize_run(run):
            self.tell(line)

    def open(self, run: "Run") -> None:
        """From now on a signal ends training with a save; of a finished run say that."""
        self.run = run
        if not run.finished:
            self.signals.grace, self.signals.words = FIRST_STEP_GRACE, STOPPING
            self.signals.on_pending = end_compilers
            self.stop = self.crash_log.watch(self.signals.has_come)
        if not (self.leads and run.finished):
            return
        words = f"run {run.request.output} is finished at step {run.position.step:,}"
        if run.position.step > run.total_steps:
            words += f", past the {run.total_steps:,} asked for"
        self.tell(f"{words}; nothing is left to do")

    def should_stop(self) -> bool:
        """Whether a signal came; from the first call on, a step is done that should be saved."""
        if self.stop is None:
            return self.signals.has_come()
        self.signals.grace = None
        return self.stop()

    def report_end(self, result: "TrainResult") -> None:
        """Say how the run ended. Raises Interrupted where it was stopped."""
        if not self.signals.has_come():
            self.signals.grace, self.signals.words = GRACE, ""
        if self.run is None or self.run.finished:
            return
        if not result.finished and not self.leads:
            raise Interrupted("rank 0 says where")
        if not result.finished:
            piped = "-" in (self.options["data"] or ("-",))
            more = " and the same text on standard input" if piped else ""
            raise Interrupted(
                f"stopped at step {result.steps:,} of {self.run.total_steps:,} and saved; "
                f"resume with: {format_resume_command(self.context, result.output)}{more}"
            )
        if not self.leads:
            return
        self.tell(describe_end(result))


def describe_end(result: "TrainResult") -> str:
    """The last sentence about a finished run: its losses, as far as known, and where it is.

    A step that was not applied has no loss, so neither has a run of which no step was.
    """
    losses = [] if result.loss is None else [f"loss {result.loss:.4f}"]
    if result.val_loss is not None:
        losses.append(f"validation loss {result.val_loss:.4f}")
    if result.val_bits_per_byte is not None:
        losses.append(f"{result.val_bits_per_byte:.4f} bits per byte")
    found = ", ".join(losses) or "no loss to report, as no logged step was applied"
    return f"done: {found}; {result.checkpoint}"


def format_resume_command(context: click.Context, output: Path) -> str:
    """The command that resumes the run: what no run.yaml keeps stands in it as it was typed."""
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


def _show_example(tokenizer: "Tokenizer", example: "Example") -> None:
    click.echo(style_example(tokenizer, example), err=True)


def style_example(tokenizer: "Tokenizer", example: "Example") -> str:
    """A conversation as text, what is trained on in green brackets."""
    from hermes.finetuning.sft import mark_trained_tokens

    def mark(words: str) -> str:
        return click.style(f"[{words}]", fg="green", bold=True)

    return mark_trained_tokens(tokenizer, example, mark)
