"""The options of the commands that train a model that exists."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass


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
