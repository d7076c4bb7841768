"""`hermes`: finds the command, runs it, and turns every error into one line and an exit code.

The module of a command is imported only when the command is called, so that --help and --version
answer at once.
"""

import errno
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TextIO

import click

from hermes.arguments import keep_option_names
from hermes.distributed.environment import OWN, read_rank_info
from hermes.distributed.process_group import exit_without_teardown
from hermes.errors import (
    HermesError,
    Interrupted,
    OutOfMemory,
    PeerLost,
    StorageError,
    describe_error,
    explain_exhaustion,
    is_out_of_memory,
)
from hermes.options.synonyms import suggest_command, suggest_option
from hermes.stage_display import StageDisplay, draw_on_terminal, measure_terminal
from hermes.stages import report_stage, show_headings, show_stages
from hermes_cli.display.help_sections import WIDEST_HELP, Row, SectionedGroup
from hermes_cli.display.robust_stderr import escape_unencodable, make_stderr_robust
from hermes_cli.launch.signals import INTERRUPTED, Signals, write_to
from hermes_cli.options.config_file import get_click_options, shorten_quoted

# The commands under their headings: name, module of hermes_cli.commands, what it does. The command
# is the module's attribute of that name.
SECTIONS = {
    "Train": (
        ("quickstart", "quickstart", "Go from text to a trained model in a few minutes"),
        ("train-tokenizer", "train_tokenizer", "Train a tokenizer"),
        ("prepare", "prepare", "Tokenize text once, into shards that training reads"),
        ("train", "train", "Train a model from scratch, or resume a run"),
        ("finetune", "finetune", "Continue training an existing model on plain text"),
        ("sft", "sft", "Fine-tune a model on conversations (supervised fine-tuning)"),
        ("dpo", "dpo", "Align a model with preference pairs (DPO and its relatives)"),
    ),
    "Use": (
        ("generate", "generate", "Generate text from a prompt"),
        ("chat", "chat", "Chat with a model"),
        ("serve", "serve", "Serve a model by OpenAI's API, and on a page to talk to it"),
        (
            "eval",
            "evaluate",
            "Measure loss, perplexity and bits per byte on texts, and scores on tasks",
        ),
    ),
    "Convert": (
        ("convert", "convert", "Convert a model to another format and verify the result"),
        ("merge", "merge", "Merge LoRA adapters into the weights"),
        ("push", "push", "Push a model to the Hugging Face Hub"),
    ),
    "Inspect": (
        ("models", "models", "List the bundled models and their sizes"),
        ("info", "info", "Show an architecture's shape, parameters, FLOPs and memory"),
        ("mal", "mal", "Check, format, show or compare architecture files"),
        ("checkpoint", "checkpoint", "List, show or verify checkpoints"),
        ("data", "data", "Check text, verify what was prepared, or show its documents"),
        ("recipe", "recipe", "Work out a run from a size: a YAML file for hermes train --config"),
        ("plan", "plan", "Plan a run: memory, largest micro-batch, hours, energy and price"),
        ("plot", "plot", "Plot the losses, learning rates and speeds of runs"),
        ("watch", "watch", "Follow runs on a page in the browser: curves, samples, settings"),
        ("doctor", "doctor", "Show what is installed, what this machine has, and what is wrong"),
    ),
    "Prove": (("conformance", "conformance", "Prove that a backend computes the same numbers"),),
}
# name -> (module of hermes_cli.commands, what the command does)
COMMANDS = {name: (module, text) for rows in SECTIONS.values() for name, module, text in rows}


@dataclass(frozen=True)
class Call:
    """One call of the command line, in the root context's obj.

    arguments: those of the call. tell: prints a line for the user. run: runs a command line, for
    the worker processes that a launcher starts. signals: those that the process was sent.
    """

    arguments: tuple[str, ...]
    tell: Callable[[str], None]
    run: Callable[[list[str], Callable[[str], None], Signals], int]
    signals: Signals = field(default_factory=Signals)


class _Commands(SectionedGroup):
    """The commands of SECTIONS, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # a shell completes what is only begun
                return None
            hint = suggest_command(cmd_name, COMMANDS)
            raise click.UsageError(f"no such command {cmd_name!r}{hint}", ctx)
        module = import_module(f"hermes_cli.commands.{COMMANDS[cmd_name][0]}")
        name = cmd_name.replace("-", "_")
        # eval_ has an underscore, as eval is a builtin of Python.
        command: click.Command = getattr(module, name, None) or getattr(module, f"{name}_")
        return command

    def list_sections(self, ctx: click.Context) -> Mapping[str, Sequence[Row]]:
        return {
            heading: [(name, text) for name, _, text in rows] for heading, rows in SECTIONS.items()
        }


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST_HELP},
    no_args_is_help=True,
)
@click.version_option(
    None, "-V", "--version", package_name="hermes-llm", message="hermes %(version)s"
)
def hermes() -> None:
    """Train language models on PyTorch or MLX from one architecture file.

    `hermes COMMAND --help` shows the options of a command. `hermes quickstart` is the place to
    start.
    """


def _print_error(line: str) -> None:
    click.echo(line, err=True)


def _format_usage_error(error: click.UsageError) -> str:
    """Click's message in one line, with the command whose --help to read."""
    path = error.ctx.command_path if error.ctx else "hermes"
    if isinstance(error, click.NoSuchOption) and error.ctx and error.option_name.startswith("--"):
        known = get_click_options(error.ctx.command)
        hint = suggest_option(error.option_name, known, "--")
        return f"{path}: no such option {error.option_name!r}{hint} (see {path} --help)"
    message = re.sub(r"\s*\n\s*", " ", error.format_message()).rstrip(".")
    message = shorten_quoted(message)
    message = message.replace(". Choose from:", "; choose from:")
    return f"{path}: {message[:1].lower()}{message[1:]} (see {path} --help)"


def _has_lost_reader() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):  # not a file, or closed
        return False


def _choose_color() -> bool | None:
    """False if the user or the terminal wants no color; None to let click look at the output.

    Source: no-color.org.
    """
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if is_plain else None


def run(
    arguments: list[str],
    tell: Callable[[str], None] = _print_error,
    signals: Signals | None = None,
) -> int:
    """Run one command line and return its exit code.

    tell: prints warnings and the error. signals: the block around it, None where no signal is
    handled.
    """
    signals = signals or Signals()

    def fail(message: str, code: int) -> int:
        tell(f"Error: {message}")  # MAL errors add the source line and a caret
        return code

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        report_stage("")
        tell(f"Warning: {message}")

    def show_heading(line: str) -> None:
        report_stage("")
        if _find_rank() == 0:
            tell(line)

    try:
        signals.raise_if_ends()  # it came while Python imported this
        _require_working_folder()
        with warnings.catch_warnings():
            warnings.showwarning = warn
            call = Call((*arguments,), tell, run, signals)
            with (
                _open_stage_display(tell, signals) as stages,
                show_stages(stages.show),
                show_headings(show_heading),
                keep_option_names(),
                hermes.make_context(
                    "hermes", list(arguments), obj=call, color=_choose_color()
                ) as context,
            ):
                hermes.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        tell(error.format_message())
        return 2
    except click.UsageError as error:
        return fail(_format_usage_error(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail_interrupted(signals, tell)
    except click.ClickException as error:
        return fail(error.format_message(), 1)
    except Interrupted as stop:
        tell(str(stop))
        return stop.exit_code
    except HermesError as error:
        if isinstance(error, PeerLost) and signals.has_come() and signals.grace is not None:
            return _fail_interrupted(signals, tell)  # the others were sent it too
        return fail(str(error), error.exit_code)
    except OSError as error:
        if exhausted := explain_exhaustion(error):
            return fail(exhausted, _choose_exhaustion_code(error))
        if error.errno != errno.EPIPE or not _has_lost_reader():
            return fail(describe_error(error), StorageError.exit_code)
        # The reader is gone, as with `| head`. Python would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Warning as error:
        return fail(f"{error} (a warning, which PYTHONWARNINGS makes an error)", 1)
    except Exception as error:
        # As a compiler does that the terminal sent the same Ctrl-C.
        if signals.has_come():
            return _fail_interrupted(signals, tell)
        if exhausted := explain_exhaustion(error):
            return fail(exhausted, _choose_exhaustion_code(error))
        raise
    return 0


def _require_working_folder() -> None:
    """Raise StorageError in a folder that is gone, where the BLAS of torch ends the process."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise StorageError(
            "the working folder was deleted or moved away; change to one that exists"
        ) from error


def _choose_exhaustion_code(error: BaseException) -> int:
    return OutOfMemory.exit_code if is_out_of_memory(error) else HermesError.exit_code


def _open_stage_display(tell: Callable[[str], None], signals: Signals) -> StageDisplay:
    """What shows the stages of a command: of several processes the first alone."""
    speaks = (tell is _print_error or OWN in os.environ) and _find_rank() == 0
    terminal = speaks and sys.stderr is not None and sys.stderr.isatty()
    return StageDisplay(
        _print_error if speaks else lambda line: None,
        draw_on_terminal if terminal else None,
        signals.raise_if_ends,
        measure_terminal,
    )


def _find_rank() -> int:
    try:
        rank_info = read_rank_info(os.environ)
    except HermesError:  # the command will say what is wrong with the variables
        return 0
    return rank_info.rank if rank_info else 0


def _fail_interrupted(signals: Signals, tell: Callable[[str], None]) -> int:
    if signals.claim_last_words():
        tell(signals.last_words)
    return INTERRUPTED


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    with Signals() as signals:
        run_process(signals)


def run_process(signals: Signals) -> None:
    """Run the command line of this process in a block of `signals`, and exit with its code."""
    _complete_words()
    write_to(make_stderr_robust())
    escape_unencodable()
    end_without_teardown = exit_without_teardown()
    code = run(sys.argv[1:], signals=signals)
    signals.finish(code)
    if code == Interrupted.exit_code and "TORCHELASTIC_RUN_ID" in os.environ:
        code = 0  # torchrun restarts what ends with any other code
    if _is_launched():
        end_without_teardown(code)
    sys.exit(code)


def _complete_words() -> None:
    """Answer the shell that completes a command line, and exit; else do nothing.

    The shell sets _HERMES_COMPLETE to what it wants: bash_source for the script to load, ...
    """
    name = os.path.basename(sys.argv[0]) if sys.argv[0].endswith("hermes-llm") else "hermes"
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    if instruction := os.environ.get(variable):
        from click.shell_completion import add_completion_class, shell_complete

        from hermes_cli.options.completion import BashWithPaths

        add_completion_class(BashWithPaths)
        sys.exit(shell_complete(hermes, {}, name, variable, instruction))


def _is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    try:
        return read_rank_info(os.environ) is not None
    except HermesError:  # the command has already said what is wrong with the variables
        return False


if __name__ == "__main__":
    main()
