"""`hermes train`: train a model from scratch, or resume a run."""

from hermes_cli.options.declarations import declare_command
from hermes_cli.training.run_training import train_run

train = declare_command(
    "train",
    text="""Train a model from scratch, or resume a run.

    Checkpoints, metrics.jsonl and run.yaml are written to --output.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """,
)(train_run)
