"""What `hermes finetune`, `sft` and `dpo` share: their options, and what they begin from."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError
from hermes_cli.launch.join import backend_of
from hermes_cli.options.config_file import COMMAND_LINE
from hermes_cli.options.resolve import RECIPE_FIELDS, ResolvedOptions, collect_recipe_fields
from hermes_cli.training.run_training import realised

if TYPE_CHECKING:
    from hermes.finetuning.base_model import BaseModel
    from hermes.interface import Tensors
    from hermes.recipe import Lora
    from hermes.training.run import RunRequest

LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")


def beginning_of(options: ResolvedOptions, *, chat: bool) -> "BaseModel":
    """The model to tune, the run's own where it goes on. Raises HermesError."""
    from hermes.finetuning.base_model import open_base_model
    from hermes.interop.hub import load_tokenizer

    if options.is_resumed:
        return _gone_on(options, chat=chat)
    if not options["checkpoint"]:
        raise HermesError("no model to tune: give --checkpoint C")
    if model := [key for key in options.edits if key.startswith("model.")]:
        raise HermesError(f"--set {model[0]}: the architecture is the checkpoint's; leave it out")
    return open_base_model(
        options["checkpoint"],
        config=options.model_config,
        tokenizer=load_tokenizer(options["tokenizer"]) if options["tokenizer"] else None,
        template=options.values.get("template"),
        chat=chat,
    )


def _gone_on(options: ResolvedOptions, *, chat: bool) -> "BaseModel":
    """The run's newest checkpoint, which has its tokenizer and its template."""
    from hermes.finetuning.base_model import CHAT_TOKENS, add_special_tokens, open_base_model
    from hermes.interop.hub import load_tokenizer

    template = options["template"] if options.is_given("template") else None
    own = open_base_model(options["output"], template=template, chat=chat)
    if not options.is_given("tokenizer"):
        return own
    given = load_tokenizer(options["tokenizer"])
    same = own.tokenizer.fingerprint == add_special_tokens(given, CHAT_TOKENS)[0].fingerprint
    return own if same else replace(own, tokenizer=given)


def base_of(options: ResolvedOptions, start: "BaseModel") -> "Callable[[], Tensors] | None":
    """The weights that a run which goes on began from, opened when called; None for a new run."""
    if not options.is_resumed:
        return None

    def opened() -> "Tensors":
        from hermes.finetuning.base_model import open_base_model

        try:
            if not options["checkpoint"]:
                raise HermesError("its run.yaml does not say where")
            return open_base_model(
                options["checkpoint"],
                config=options.model_config,
                tokenizer=start.tokenizer,
                chat=False,
            ).params
        except HermesError as error:
            missing = "" if options.is_given("checkpoint") else "has lost its reference.npz and "
            raise type(error)(
                f"run {options['output']} {missing}needs the model that it began from ({error}); "
                "say with --checkpoint C where it is now"
            ) from None

    return opened


def files_of(options: ResolvedOptions) -> tuple[str, ...]:
    """The files to learn from; standard input where none is named. Raises HermesError."""
    data = tuple(options["data"]) or ("-",)
    if "-" in data and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or records on standard input")
    return data


def recipe_of(options: ResolvedOptions, max_seq_len: int, longest: int) -> dict[str, object]:
    """Fields of the recipe: all of a new run's, those that were asked for of one that goes on.

    longest: the default length of a row, where the model has room for it.
    """
    given = collect_recipe_fields(options)
    if options.is_resumed:
        return given | ({"lora": lora_of(options)} if any(map(options.is_given, LORA)) else {})
    own = {RECIPE_FIELDS[name]: options[name] for name in RECIPE_FIELDS if name in options.values}
    if own.get("seq_len") is None:
        own["seq_len"] = min(longest, max_seq_len)
    own["lora"] = lora_of(options)
    return own | given


def lora_of(options: ResolvedOptions) -> "Lora | None":
    """The adapters asked for, None for none. Raises HermesError."""
    from hermes.recipe import LORA_TARGETS, Lora

    if not options.values.get("lora_rank"):
        for name in LORA[1:]:
            if options.sources.get(name) == COMMAND_LINE:
                option = name.replace("_", "-")
                raise HermesError(f"--{option} belongs to adapters; give --lora-rank with it")
        return None
    named = str(options["lora_targets"])
    targets = LORA_TARGETS if named == "all" else tuple(t.strip() for t in named.split(","))
    return Lora(options["lora_rank"], options["lora_alpha"], options["lora_dropout"], targets)


def request_of(
    options: ResolvedOptions, start: "BaseModel", data: tuple[str, ...], given: dict[str, object]
) -> "RunRequest":
    """A run that begins from this model; what it learns from is still to be said."""
    from hermes.training.run import RunRequest, check_output
    from hermes_cli.options.resolve import collect_settings
    from hermes_cli.training.run_training import kept

    output = Path(options["output"])
    check_output(output, resume=options["resume"])
    return RunRequest(
        output=output,
        data=data,
        backend=backend_of(options["backend"], os.environ),
        tokenizer=start.tokenizer,
        options=realised(options),
        given=given,
        resume=options["resume"],
        allow_batch_change=options["allow_batch_change"],
        log_every=options["log_every"],
        keep=kept(options),
        file_format=options["format"],
        settings=collect_settings(options),
        sources=options.sources,
        start=start.adapted_start if given.get("lora") else start.start,
        tokenizer_settings=start.settings,
        split_among=options.split_among,
    )


def counter(what: str) -> Callable[[int, int], None]:
    """Shows how far something is: in place on a terminal, else in tenths."""
    shown = [-1]

    def show(done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if sys.stderr.isatty():
            click.echo(f"\r{what}: {done:,} of {total:,}", err=True, nl=done >= total)
        elif tenth > shown[0]:
            shown[0] = tenth
            click.echo(f"{what}: {done:,} of {total:,}", err=True)

    return show
