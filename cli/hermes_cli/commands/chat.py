"""`hermes chat`: a conversation in the terminal, or one answer through a pipe."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError, suggest_nearest
from hermes.formatting import format_count
from hermes_cli.display.line_input import read_line, read_whole_input
from hermes_cli.display.model_menu import choose_model
from hermes_cli.display.text_stream import make_visible, stream_text
from hermes_cli.launch.signals import FIRST_STEP_GRACE, Signals
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.inference.chat_session import ChatSession

QUOTES = '"""'
HELP = f"""\
/retry          answer the last message anew, otherwise
/undo           forget the last message and its answer
/reset          forget the conversation
/system TEXT    set the system prompt and forget the conversation; without TEXT, show it
/save F         write the conversation to a new file; /save! F also over another
/load F         continue one that was saved
/set            show the settings
/set KEY=VALUE  change one or more: temperature, top_k, top_p, min_p, max_tokens, seed, and the
                other numbers of sampling, such as repetition_penalty
{QUOTES}             begin a message of several lines, which the next {QUOTES} ends; a line that
                ends in a backslash goes on in the next, too; between {QUOTES} a message may
                begin with a slash
/quit           end (as Ctrl-D does; Ctrl-C ends an answer)"""
COMMANDS = (
    *("/retry", "/undo", "/reset", "/system", "/save", "/save!", "/load", "/set", "/help", "/quit"),
)
ALONE = frozenset({"/retry", "/undo", "/reset", "/help", "/quit"})  # that nothing follows
SAMPLING: dict[str, type] = {"temperature": float, "top_k": int, "top_p": float, "min_p": float}
OTHERS: dict[str, type] = {  # shown where they are not what they usually are
    **dict.fromkeys(("typical_p", "repetition_penalty", "presence_penalty"), float),
    **dict.fromkeys(("frequency_penalty", "xtc_probability", "xtc_threshold"), float),
    **dict.fromkeys(("no_repeat_ngram", "min_tokens"), int),
}
OWN = {"max_tokens": int, "seed": int}


@declare_command("chat")
def chat(
    checkpoint: Path | None,
    config: Path | None,
    ignore_fields: tuple[str, ...],
    use_ema: bool,
    tokenizer: Path | None,
    eos: str | None,
    template: str | None,
    template_arg: tuple[str, ...],
    **options: Any,
) -> None:
    """Chat with a model.

    In a terminal, /help lists the commands of the conversation. If standard input is not a
    terminal, all of it is one message, and the answer is printed to standard output. Without
    --checkpoint a terminal offers the models in and below the current folder.
    """
    import hermes

    call = click.get_current_context().find_root().obj
    signals: Signals = call.signals
    if checkpoint is None:
        if not sys.stdin.isatty():
            raise click.UsageError("missing option '--checkpoint' / '-c'")
        with signals.raise_at_once(), suppress(EOFError):
            checkpoint = choose_model(Path(), lambda: _train_one(call))
        if checkpoint is None:
            return
    talk = hermes.chat(
        checkpoint,
        config=config,
        ignore_fields=ignore_fields,
        use_ema=use_ema,
        tokenizer=tokenizer,
        eos=eos,
        template=template,
        template_arg=template_arg,
        **options,
    )
    if sys.stdin.isatty():
        _converse(talk, signals)
    else:
        message = read_whole_input().strip()
        if not message:
            raise HermesError("no message: write one to standard input")
        _answer(talk, talk.say(message), signals)


def _train_one(call: Any) -> Path:
    """Train the small model of quickstart. Raises HermesError where that fails."""
    if call.run(["quickstart"], call.tell, call.signals) != 0:
        raise HermesError("hermes quickstart did not end well, so there is no model to talk to")
    return Path("quickstart")


def _converse(talk: "ChatSession", signals: Signals) -> None:
    """Read lines and answer them until the input ends, or a signal other than Ctrl-C comes."""
    signals.grace = FIRST_STEP_GRACE  # a token may take its time
    with suppress(ImportError):
        import_module("readline")  # history and editing for input(), where there is one
    click.echo("/help shows the commands", err=True)
    while True:
        try:
            with signals.raise_at_once():
                line, is_quoted = _read_message()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            if not signals.forget_ctrl_c():
                raise
            click.echo("\n/quit or Ctrl-D ends", err=True)
            continue
        except HermesError as error:
            click.echo(f"Error: {error}", err=True)
            continue
        signals.forget_ctrl_c()
        command = "" if is_quoted or not line.startswith("/") else line
        if command == "/quit":
            return
        try:
            if command == "/retry":
                _answer(talk, talk.retry(), signals, timed=True)
            elif command:
                click.echo(run_command(talk, line), err=True)
            elif line:
                _answer(talk, talk.say(line), signals, timed=True)
        except KeyboardInterrupt:
            if not signals.forget_ctrl_c():
                raise
            click.echo("\n(stopped; that turn is forgotten)", err=True)
        except HermesError as error:
            click.echo(f"Error: {error}", err=True)


def _read_message() -> tuple[str, bool]:
    """Read a message: a line, or several between quotes or before a backslash.

    -> the message, and whether it was quoted: then it is no command, whatever it begins with.
    """
    line = read_line(">>> ").strip()
    if line.startswith(QUOTES):
        lines = [line.removeprefix(QUOTES)]
        while not lines[-1].endswith(QUOTES):
            lines.append(read_line("... "))
        return "\n".join(lines).removesuffix(QUOTES).strip(), True
    while line.endswith("\\"):
        line = line.removesuffix("\\") + "\n" + read_line("... ").rstrip()
    return line, False


def _answer(
    talk: "ChatSession", pieces: Iterator[str], signals: Signals, *, timed: bool = False
) -> None:
    """Show an answer as it comes; timed: say how fast it came."""
    before, began, count = talk.num_dropped, 0.0, 0
    with stream_text(signals.raise_if_come) as show:
        for piece in pieces:
            count += 1
            began = began or time.perf_counter()
            show(piece)
    if talk.num_dropped > before:
        many, one = "messages no longer fit and are", "message no longer fits and is"
        click.echo(f"({format_count(talk.num_dropped, many, one)} not read)", err=True)
    seconds = time.perf_counter() - began
    # The last piece is what was held back, and the first had the prompt to wait for.
    if timed and count > 3 and seconds > 0:
        rate = f"({format_count(count - 1, 'tokens')}, {(count - 2) / seconds:.1f} a second)"
        click.echo(click.style(rate, dim=True), err=True)


def run_command(talk: "ChatSession", line: str) -> str:
    """Do what a line that begins with '/' says; what to show. Raises HermesError."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if rest and name in ALONE:
        raise HermesError(f"{name} takes no argument, got {rest[:60]!r}")
    match name:
        case "/help":
            return HELP
        case "/undo":
            return f"forgotten: {talk.undo()[:60]!r} and its answer"
        case "/reset":
            talk.reset()
            return "the conversation is forgotten"
        case "/system" if not rest:
            return make_visible(talk.system) or "there is no system prompt"
        case "/system":
            talk.reset()
            talk.system = rest
            return "the system prompt is set and the conversation forgotten"
        case "/save" | "/save!" | "/load" if not rest:
            raise HermesError(f"{name} needs the name of a file")
        case "/save" | "/save!":
            talk.save(Path(rest), over=name == "/save!")
            return (
                f"{format_count(len(talk.messages), 'messages are', 'message is')} saved in {rest}"
            )
        case "/load":
            talk.load(Path(rest))
            many, one = "messages are", "message is"
            return f"{format_count(len(talk.messages), many, one)} read from {rest}"
        case "/set" if not rest:
            values = {key: getattr(talk.sampling, key) for key in SAMPLING}
            values |= {key: getattr(talk, key) for key in OWN}
            others = {key: getattr(talk.sampling, key) for key in OTHERS}
            usual = type(talk.sampling)()
            values |= {k: value for k, value in others.items() if value != getattr(usual, k)}
            return "  ".join(f"{key}={value}" for key, value in values.items())
        case "/set":
            return _set(talk, rest)
    raise HermesError(f"no such command {name!r}{suggest_nearest(name, COMMANDS) or '; try /help'}")


def _set(talk: "ChatSession", text: str) -> str:
    from dataclasses import replace

    from hermes.numerics.randomness import check_seed

    given = dict(_parse_setting(part) for part in re.sub(r"\s*=\s*", "=", text).split())
    if given.get("max_tokens", 1) < 1:
        raise HermesError(f"max_tokens must be at least 1, got {given['max_tokens']}")
    check_seed(given.get("seed", 0))
    sampling = {key: value for key, value in given.items() if key not in OWN}
    talk.sampling = replace(talk.sampling, **sampling)
    for key in OWN.keys() & given.keys():
        setattr(talk, key, given[key])
    return "  ".join(f"{key}={value}" for key, value in given.items())


def _parse_setting(text: str) -> tuple[str, Any]:
    """The name and the number of KEY=VALUE. Raises HermesError."""
    key, _, value = text.partition("=")
    kinds = SAMPLING | OWN | OTHERS
    if key not in kinds:
        raise HermesError(f"there is no setting {key!r}; known are {', '.join(kinds)}")
    try:
        return key, kinds[key](value)
    except ValueError:
        wanted = "a whole number" if kinds[key] is int else "a number"
        raise HermesError(f"{key} needs {wanted}, got {value!r}") from None
