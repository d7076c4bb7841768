"""What `hermes train` does: options to a request, a request to a run, a run to the terminal."""

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError, Interrupted, nearest
from hermes_cli.settings import COMMAND, Layer, layered, read_yaml
from hermes_cli.signals import Signals

if TYPE_CHECKING:
    from hermes.library import Result
    from hermes.run import Run
    from hermes.spec import ModelSpec
    from hermes.tokenizer import Tokenizer

# Options that are fields of the recipe, by the recipe's names.
RECIPE = {
    name: name
    for name in (
        *("lr", "batch_size", "grad_accum", "epochs", "max_steps", "seq_len", "schedule"),
        *("warmup_steps", "grad_clip", "seed", "val_fraction", "eval_every", "save_every"),
        "freeze_layers",
    )
} | {"weight_decay": "optimizer.weight_decay"}
# About one call and not about the run: neither in its run.yaml nor taken from there.
CALL = ("resume", "config", "output", "num_gpus")
# About where, which may differ each time: not taken from there.
WHERE = ("backend", "device", "compile")


class _Options:
    """The command's options after all layers, and which of them a user gave."""

    def __init__(self, context: click.Context):
        config = context.params["config"]
        layers = [] if config is None else [_config(Path(config))]
        values, _ = layered(context, layers)
        run = Path(values["output"]) / "run.yaml"
        if values["resume"] and run.is_file():
            kept = {
                key: value
                for key, value in _options_of(run).values.items()
                if key not in (*RECIPE, *CALL, *WHERE)
            }
            layers.insert(0, Layer(str(run), kept))
        self.values, self.sources = layered(context, layers)
        self.unasked = ("default", str(run))
        self.edits = {key: value for layer in layers[-1:] for key, value in _mapping(layer)}
        self.edits |= dict(_edit(edit) for edit in context.params["edits"])
        if more := context.params["more"]:
            self.values["data"] = (*self.values["data"], *more)
            self.sources["data"] = COMMAND

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def asked(self, name: str) -> bool:
        """Whether the user gave it now, on the command line or with --config."""
        return self.sources[name] not in self.unasked


def _config(path: Path) -> Layer:
    if path.suffix not in (".yaml", ".yml"):
        why = "a .json is a model's config; an architecture to train goes to --model"
        raise HermesError(f"{path}: --config takes a run's options as .yaml ({why})")
    return _options_of(path)


def _options_of(path: Path) -> Layer:
    values = read_yaml(path)
    values.pop("sessions", None)
    return Layer(str(path), values)


def _mapping(layer: Layer) -> list[tuple[str, str]]:
    held = layer.values.get("set")
    return [(key, str(value)) for key, value in held.items()] if isinstance(held, Mapping) else []


def _edit(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise HermesError(f"--set {text}: expected KEY=VALUE, as in model.num_layers=2")
    return key.strip(), value.strip()


def _given(options: _Options) -> dict[str, object]:
    """Fields of the recipe that the user gave, the edits of `--set` among them."""
    from hermes.recipe import Recipe
    from hermes.same_run import flat

    given = {RECIPE[name]: options[name] for name in RECIPE if options.asked(name)}
    known = flat(Recipe())
    for key, text in options.edits.items():
        if key.startswith("model."):
            continue
        name = RECIPE.get(key, key)
        if name not in known:
            every = [*known, *RECIPE]
            raise HermesError(f"--set {key}: there is no such setting{nearest(key, every)}")
        if name in given:
            raise HermesError(f"{key} is given twice, as an option and with --set")
        given[name] = _typed(key, text, known[name])
    return given


def _typed(key: str, text: str, default: object) -> object:
    """An edit's text as the type that the recipe has there."""
    try:
        match default:
            case int():
                return int(text)
            case float():
                return float(text)
            case str():
                return text
    except ValueError:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise HermesError(f"--set {key}: expected {wanted}, got {text!r}") from None
    raise HermesError(f"--set {key}: not a single value; it has no form on the command line")


def _spec(options: _Options, resuming: bool) -> "ModelSpec | None":
    """The model asked for; None for the run's own."""
    from hermes import mal

    edits = {k.removeprefix("model."): v for k, v in options.edits.items() if k[:6] == "model."}
    if resuming and not options.asked("model") and not edits:
        return None
    spec = mal.load(options["model"])
    return mal.edit_all(spec, edits) if edits else spec


def _data(options: _Options, stack: ExitStack) -> tuple[str, ...]:
    """The files to read; standard input is kept in a file where it has to be read twice."""
    data = tuple(options["data"]) or ("-",)
    if "-" not in data:
        return data
    if sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input")
    if not options["train_tokenizer"]:
        return data
    from hermes.data import spool

    folder = stack.enter_context(TemporaryDirectory(prefix="hermes-"))
    kept = str(spool(sys.stdin.buffer, folder, file_format=options["format"] or "txt"))
    return tuple(kept if name == "-" else name for name in data)


def _tokenizer(options: _Options, data: tuple[str, ...], resuming: bool) -> "Tokenizer | None":
    """The tokenizer asked for; None for the run's own."""
    from hermes.tokenizer import Tokenizer

    path = options["tokenizer"]
    if resuming:
        return Tokenizer.load(path) if path and options.sources["tokenizer"] == COMMAND else None
    if not options["train_tokenizer"]:
        return Tokenizer.load(path) if path else None
    if path and Path(path).exists():
        raise HermesError(f"{path} is there already; leave --train-tokenizer out to use it")
    from hermes.library import train_tokenizer

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


def _settings(options: _Options) -> dict[str, object]:
    """What run.yaml says beside the recipe; files by their full names."""
    kept = {k: v for k, v in options.values.items() if k not in (*RECIPE, *CALL, "set")}
    data = options["data"] or ("-",)
    kept["data"] = [name if name == "-" else os.path.abspath(name) for name in data]
    for name in ("tokenizer", "model"):
        if kept[name] and os.path.exists(str(kept[name])):
            kept[name] = os.path.abspath(str(kept[name]))
    return kept | {f"set.{key}": value for key, value in options.edits.items()}


def run_training(context: click.Context, signals: Signals) -> None:
    """Do what the command line asks."""
    from hermes.checkpoint import Keep, steps
    from hermes.model import choose_backend
    from hermes.run import Request, check_output, open_run
    from hermes.seam import Options

    options = _Options(context)
    if options["num_gpus"] != 1:
        raise HermesError(
            f"--num-gpus {options['num_gpus']}: training on several GPUs is not there yet; "
            "leave it out"
        )
    output = Path(options["output"])
    check_output(output, resume=options["resume"])
    resuming = options["resume"] and bool(steps(output))
    given = _given(options)
    spec = _spec(options, resuming)
    backend = choose_backend(options["backend"])
    with ExitStack() as stack:
        data = _data(options, stack)
        tokenizer = _tokenizer(options, data, resuming)
        request = Request(
            output=output,
            data=data,
            backend=backend,
            spec=spec,
            tokenizer=tokenizer,
            options=Options(
                device=options["device"],
                precision=options["precision"],
                compile=options["compile"],
                grad_checkpoint=options["grad_checkpoint"],
            ),
            given=given,
            resume=options["resume"],
            log_every=options["log_every"],
            keep=Keep(last=options["keep_last"], every=options["keep_every"]),
            text_field=options["text_field"],
            file_format=options["format"],
            settings=_settings(options),
            sources=options.sources,
        )
        run = stack.enter_context(open_run(request))
        for note in run.notes:
            click.echo(note, err=True)
        if run.finished:
            words = f"run {output} is finished at step {run.total_steps:,}; nothing is left to do"
            click.echo(words, err=True)
            return
        if tokenizer is not None and options["train_tokenizer"] and options["tokenizer"]:
            tokenizer.save(options["tokenizer"])
        signals.polled = True
        _finish(run, _show(run, signals), "-" in (options["data"] or ("-",)))


def _show(run: "Run", signals: Signals) -> "Result":
    """Train with a bar or with lines."""
    from hermes.library import collect
    from hermes.report.terminal import reporter

    for line in heading(run):
        click.echo(line, err=True)
    shown = reporter(run.total_steps, run.position.step)
    try:
        return collect(run, shown.show, signals.asked)
    finally:
        shown.close()


def heading(run: "Run") -> list[str]:
    """What is about to be trained, on what, with what."""
    from hermes.params import tensor_count
    from hermes.run import device

    parts, request = run.parts, run.request
    recipe, data = parts.recipe, parts.material.samples
    tokens = len(parts.material.stream)
    held_out = f", {len(data.held_out):,} held out" if data.held_out else ""
    versions = " ".join(f"{name} {number}" for name, number in request.backend.versions().items())
    where = f"{versions} on {device(request)}, {request.options.precision}"
    accum = f" in {recipe.grad_accum} parts" if recipe.grad_accum > 1 else ""
    lines = [
        f"model {parts.spec.name}: {tensor_count(parts.spec):,} parameters; {where}",
        f"data: {tokens:,} tokens, {len(data.train):,} sequences of {recipe.seq_len}{held_out}",
        f"run {request.output}: {run.total_steps:,} updates of "
        f"{recipe.batch_size * recipe.grad_accum} sequences{accum}",
    ]
    if run.checkpoint is not None:
        writer = run.checkpoint.progress.backend
        lines.append(f"going on from step {run.position.step:,}, written by {writer}")
    return lines


def _finish(run: "Run", result: "Result", from_stdin: bool) -> None:
    if not result.finished:
        again = " and the same text on standard input" if from_stdin else ""
        raise Interrupted(
            f"stopped at step {result.steps:,} of {run.total_steps:,} and saved; go on with: "
            f"hermes train --resume --output {shlex.quote(str(result.output))}{again}"
        )
    losses = [] if result.loss is None else [f"loss {result.loss:.4f}"]
    if result.val_loss is not None:
        losses.append(f"validation loss {result.val_loss:.4f}")
        losses.append(f"{result.val_bits_per_byte:.4f} bits per byte")
    click.echo(f"done: {', '.join(losses)}; {result.checkpoint}", err=True)
