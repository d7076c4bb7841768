"""What `hermes finetune`, `sft` and `dpo` share: their options, and what they begin from."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError
from hermes_cli.asked import RECIPE, Asked, given_of
from hermes_cli.place import backend_of
from hermes_cli.settings import COMMAND
from hermes_cli.training import realised

if TYPE_CHECKING:
    from hermes.recipe import Lora
    from hermes.run import Request
    from hermes.seam import Tensors
    from hermes.start import Beginning

LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")


def option(*names: str, help: str, **settings: object) -> click.Option:
    """A click option with its help; what it defaults to is shown."""
    return click.Option(names, help=help, **settings)  # type: ignore[arg-type]


def command(
    name: str,
    call: Callable[[click.Context], None],
    *,
    short_help: str,
    help: str,
    params: list[click.Parameter],
) -> click.Command:
    """A command that reads its options from the context."""

    @click.pass_context
    def callback(context: click.Context, **_: object) -> None:
        call(context)

    return click.Command(name, callback=callback, short_help=short_help, help=help, params=params)


def model_options() -> list[click.Parameter]:
    """What is tuned, and where it goes."""
    return [
        option("--checkpoint", "-c", metavar="C",
               help="A checkpoint, a run, a Hugging Face folder, a bare .safetensors, or "
               "hf://OWNER/REPO."),
        option("--tokenizer", "-t", metavar="F",
               help="A tokenizer.json.  [default: the checkpoint's own]"),
        option("--config", metavar="F",
               help="A run's options as .yaml, or beside bare weights their .json or .mal."),
        option("--output", "-o", metavar="DIR", default="checkpoints", help="The run's folder."),
        option("--resume", "--auto-resume", is_flag=True,
               help="Go on with the run in --output, or begin it."),
        option("--push-to-hub", metavar="OWNER/REPO", help="Put the model on the Hub at the end."),
        option("--push-every-save", is_flag=True, help="With --push-to-hub: each checkpoint."),
        option("--allow-batch-change", is_flag=True,
               help="Go on with more or fewer samples per update."),
    ]  # fmt: skip


def data_options(what: str) -> list[click.Parameter]:
    """What is learnt from."""
    return [
        option("--data", "-d", multiple=True, metavar="F", help=what),
        option("--format", metavar="jsonl|json|csv", help="Instead of the file's ending."),
        option("--template", metavar="F.jinja",
               help="A chat template.  [default: the checkpoint's own, else ChatML]"),
    ]  # fmt: skip


def training_options(*, lr: float, batch_size: int, samples: str) -> list[click.Parameter]:
    """How it is trained, all but the length of a row."""
    return [
        option("--lr", type=float, default=lr, help="Learning rate."),
        option("--batch-size", "-b", type=int, default=batch_size,
               help=f"{samples} per micro-batch."),
        option("--grad-accum", type=int, default=1, help="Micro-batches per update."),
        option("--epochs", "-e", type=float, default=1, help="Passes over the data."),
        option("--max-steps", type=int, default=0, help="Updates in all, whatever --epochs says."),
        option("--schedule", default="constant", metavar="constant|cosine|wsd", help=""),
        option("--warmup-steps", type=int, default=0, help="Updates of linear warm-up."),
        option("--grad-clip", type=float, default=1.0, help="Largest gradient norm; 0: any."),
        option("--weight-decay", type=float, default=0.1, help="Of matrices, decoupled."),
        option("--seed", type=int, default=0, help="Decides every random number."),
        option("--val-fraction", type=float, default=0.0, help="Share of the data held out."),
        option("--eval-every", type=int, default=0, help="Updates; 0: at the end."),
        option("--save-every", type=int, default=1000, help="Updates; 0: at the end."),
        option("--log-every", type=int, help="Updates.  [default: 1, or 10 from 10,000 steps on]"),
        option("--keep-last", type=int, help="Keep the newest N checkpoints.  [default: all]"),
        option("--keep-every", type=int, help="Keep also those whose step N divides."),
        option("--keep-best", metavar="METRIC", help="Keep also the best, as val_loss says."),
        option("--freeze-layers", type=int, default=0,
               help="Leave the embeddings and the bottom N layers as they are."),
        option("--freeze", multiple=True, metavar="GLOB", help="Leave these tensors as they are."),
        option("--lora-rank", type=int, default=0, metavar="R",
               help="Train low-rank adapters of this rank, and nothing else; 0: no adapters."),
        option("--lora-alpha", type=float, default=16.0, help="They are scaled by alpha / rank."),
        option("--lora-dropout", type=float, default=0.0, help="Of what adapters read."),
        option("--lora-targets", default="all", metavar="q_proj,v_proj,...",
               help="The matrices that get adapters."),
        option("--num-gpus", type=int, default=1, help="Processes, one for each GPU."),
        option("--num-processes", type=int, default=1,
               help="The same where there is no GPU each."),
        option("--max-restarts", type=int, default=0, help="When a process is lost."),
        option("--shard", metavar="full|optimizer",
               help="Split the model over the processes: all of it, or what the optimizer needs."),
        option("--shard-group", type=int, metavar="N", help="Over N neighbours.  [default: all]"),
        option("--peer-timeout", type=float, default=45,
               help="Seconds until a silent one is lost."),
        option("--backend", default="auto", metavar="auto|torch|mlx",
               help="auto: mlx on Apple silicon, else torch."),
        option("--device", help="One that `hermes doctor` lists.  [default: the fastest]"),
        option("--precision", default="float32", metavar="float32|tf32|bfloat16|float16|float64",
               help="Of matrix products and activations; weights and optimizer stay float32."),
        option("--deterministic/--no-deterministic", default=False,
               help="The same bits each time, or a refusal."),
        option("--grad-checkpoint", is_flag=True, help="Compute activations twice, keep few."),
        option("--compile/--no-compile", default=None, help="[default: where it pays]"),
        option("--set", "edits", multiple=True, metavar="KEY=VALUE",
               help="optimizer.beta2=0.98 and its like."),
    ]  # fmt: skip


def beginning_of(options: Asked, *, chat: bool) -> "Beginning":
    """The model to tune, the run's own where it goes on. Raises HermesError."""
    from hermes.start import beginning
    from hermes.tokenizer import Tokenizer

    if options.goes_on:
        return _gone_on(options, chat=chat)
    if not options["checkpoint"]:
        raise HermesError("no model to tune: give --checkpoint C")
    if model := [key for key in options.edits if key.startswith("model.")]:
        raise HermesError(f"--set {model[0]}: the architecture is the checkpoint's; leave it out")
    return beginning(
        options["checkpoint"],
        config=options.model_config,
        tokenizer=Tokenizer.load(options["tokenizer"]) if options["tokenizer"] else None,
        template=options.values.get("template"),
        chat=chat,
    )


def _gone_on(options: Asked, *, chat: bool) -> "Beginning":
    """The run's newest checkpoint, which has its tokenizer and its template."""
    from hermes.start import CHAT_TOKENS, beginning, with_tokens
    from hermes.tokenizer import Tokenizer

    template = options["template"] if options.asked("template") else None
    own = beginning(options["output"], template=template, chat=chat)
    if not options.asked("tokenizer"):
        return own
    given = Tokenizer.load(options["tokenizer"])
    same = own.tokenizer.fingerprint == with_tokens(given, CHAT_TOKENS)[0].fingerprint
    return own if same else replace(own, tokenizer=given)


def base_of(options: Asked, start: "Beginning") -> "Callable[[], Tensors] | None":
    """The weights that a run which goes on began from, opened when called; None for a new run."""
    if not options.goes_on:
        return None

    def opened() -> "Tensors":
        from hermes.start import beginning

        try:
            if not options["checkpoint"]:
                raise HermesError("its run.yaml does not say where")
            return beginning(
                options["checkpoint"],
                config=options.model_config,
                tokenizer=start.tokenizer,
                chat=False,
            ).params
        except HermesError as error:
            missing = "" if options.asked("checkpoint") else "has lost its reference.npz and "
            raise type(error)(
                f"run {options['output']} {missing}needs the model that it began from ({error}); "
                "say with --checkpoint C where it is now"
            ) from None

    return opened


def files_of(options: Asked) -> tuple[str, ...]:
    """The files to learn from; standard input where none is named. Raises HermesError."""
    data = tuple(options["data"]) or ("-",)
    if "-" in data and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or records on standard input")
    return data


def recipe_of(options: Asked, max_seq_len: int, longest: int) -> dict[str, object]:
    """Fields of the recipe: all of a new run's, those that were asked for of one that goes on.

    longest: the default length of a row, where the model has room for it.
    """
    given = given_of(options)
    if options.goes_on:
        return given | ({"lora": lora_of(options)} if any(map(options.asked, LORA)) else {})
    own = {RECIPE[name]: options[name] for name in RECIPE if name in options.values}
    if own.get("seq_len") is None:
        own["seq_len"] = min(longest, max_seq_len)
    own["lora"] = lora_of(options)
    return own | given


def lora_of(options: Asked) -> "Lora | None":
    """The adapters asked for, None for none. Raises HermesError."""
    from hermes.recipe import LORA_TARGETS, Lora

    if not options.values.get("lora_rank"):
        for name in LORA[1:]:
            if options.sources.get(name) == COMMAND:
                option = name.replace("_", "-")
                raise HermesError(f"--{option} belongs to adapters; give --lora-rank with it")
        return None
    named = str(options["lora_targets"])
    targets = LORA_TARGETS if named == "all" else tuple(t.strip() for t in named.split(","))
    return Lora(options["lora_rank"], options["lora_alpha"], options["lora_dropout"], targets)


def request_of(
    options: Asked, start: "Beginning", data: tuple[str, ...], given: dict[str, object]
) -> "Request":
    """A run that begins from this model; what it learns from is still to be said."""
    from hermes.run import Request, check_output
    from hermes_cli.asked import settings_of
    from hermes_cli.training import kept

    output = Path(options["output"])
    check_output(output, resume=options["resume"])
    return Request(
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
        settings=settings_of(options),
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
