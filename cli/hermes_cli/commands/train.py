"""`hermes train`: train a model from scratch, or go on with a run."""

from typing import Any

import click

from hermes_cli.launch.signals import Signals
from hermes_cli.options.declarations import BACKEND, DEVICE, PRECISION


@click.command()
@click.argument("more", metavar="[F]...", nargs=-1)
@click.option(
    "--data",
    "-d",
    multiple=True,
    metavar="F",
    help="Text: .txt, .jsonl, .json or .csv; files, folders, patterns.  [default: standard input]",
)
@click.option("--text-field", default="text", help="The field of JSON or CSV that holds the text.")
@click.option("--format", metavar="txt|jsonl|json|csv", help="Instead of the file's ending.")
@click.option("--tokenizer", "-t", metavar="F", help="A tokenizer.json.")
@click.option("--train-tokenizer", is_flag=True, help="Train a tokenizer on the data first.")
@click.option("--vocab-size", "-v", type=int, default=32_000, help="Of --train-tokenizer.")
@click.option("--model", "-m", default="tiny", metavar="NAME|F", help="Bundled name or MAL file.")
@click.option("--checkpoint", "-c", metavar="C", help="Begin from this, as hermes finetune does.")
@click.option("--output", "-o", default="checkpoints", metavar="DIR", help="The run's folder.")
@click.option(
    "--resume", "--auto-resume", is_flag=True, help="Go on with the run in --output, or begin it."
)
@click.option("--push-to-hub", metavar="OWNER/REPO", help="Put the model on the Hub at the end.")
@click.option("--push-every-save", is_flag=True, help="With --push-to-hub: each checkpoint.")
@click.option(
    "--allow-batch-change", is_flag=True, help="Go on with more or fewer sequences per update."
)
@click.option("--lr", type=float, default=3e-4, help="Learning rate.")
@click.option("--batch-size", "-b", type=int, default=32, help="Sequences per micro-batch.")
@click.option("--grad-accum", type=int, default=1, help="Micro-batches per update.")
@click.option("--epochs", "-e", type=float, default=1, help="Passes over the data.")
@click.option("--max-steps", type=int, default=0, help="Updates in all, whatever --epochs says.")
@click.option(
    "--seq-len", type=int, help="Tokens per sequence.  [default: 256, or the model's max_seq_len]"
)
@click.option("--schedule", default="constant", metavar="constant|cosine|wsd")
@click.option("--warmup-steps", type=int, default=0, help="Updates of linear warm-up.")
@click.option("--grad-clip", type=float, default=1.0, help="Largest gradient norm; 0: any.")
@click.option("--weight-decay", type=float, default=0.1, help="Of matrices, decoupled.")
@click.option("--seed", type=int, default=0, help="Decides every random number.")
@click.option("--val-fraction", type=float, default=0.0, help="Share of the text held out.")
@click.option("--eval-every", type=int, default=0, help="Updates; 0: at the end.")
@click.option("--save-every", type=int, default=1000, help="Updates; 0: at the end.")
@click.option("--log-every", type=int, help="Updates.  [default: 1, or 10 from 10,000 steps on]")
@click.option("--keep-last", type=int, help="Keep the newest N checkpoints.  [default: all]")
@click.option("--keep-every", type=int, help="Keep also those whose step N divides.")
@click.option("--keep-best", metavar="METRIC", help="Keep also the best, as val_loss says.")
@click.option("--freeze-layers", type=int, default=0, help="Embeddings and the bottom N layers.")
@click.option("--freeze", multiple=True, metavar="GLOB", help="Tensors to leave as they are.")
@click.option("--num-gpus", type=int, default=1, help="Processes, one for each GPU.")
@click.option("--num-processes", type=int, default=1, help="The same where there is no GPU each.")
@click.option("--max-restarts", type=int, default=0, help="When a process is lost.")
@click.option(
    "--shard",
    metavar="full|optimizer",
    help="Split the model over the processes: all of it, or what the optimizer needs.",
)
@click.option("--shard-group", type=int, metavar="N", help="Over N neighbours.  [default: all]")
@click.option("--peer-timeout", type=float, default=45, help="Seconds until a silent one is lost.")
@BACKEND
@DEVICE
@PRECISION
@click.option(
    "--deterministic/--no-deterministic",
    default=False,
    help="The same bits each time, or a refusal.",
)
@click.option("--grad-checkpoint", is_flag=True, help="Compute activations twice, keep few.")
@click.option("--compile/--no-compile", default=None, help="[default: where it pays]")
@click.option("--config", metavar="F.yaml", help="Options from a file, such as a run.yaml.")
@click.option(
    "--set",
    "edits",
    multiple=True,
    metavar="KEY=VALUE",
    help="model.num_layers=2 edits the architecture, optimizer.beta2=0.98 the recipe.",
)
@click.pass_context
def train(context: click.Context, **_: Any) -> None:
    """Train a model from scratch, or go on with a run.

    Checkpoints, metrics.jsonl and run.yaml go to --output. Ctrl-C finishes the update, saves and
    ends; the same command with --resume goes on, on either backend.
    """
    from hermes_cli.training.run_training import run_training

    if context.params["checkpoint"]:
        from hermes_cli.commands.finetune import run_finetuning

        run_finetuning(context)
        return
    with Signals("stopping after this update; again to end at once") as signals:
        run_training(context, signals)
