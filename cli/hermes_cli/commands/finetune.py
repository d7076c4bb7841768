"""`hermes finetune`: continue training an existing model on text."""

from hermes_cli.options.declarations import declare_command
from hermes_cli.training.run_training import train_run

finetune = declare_command(
    "finetune",
    text="""Continue training an existing model on plain text.

    The model may be one of hermes or of Hugging Face, in full or with LoRA adapters. Tokens that
    the tokenizer has and the model lacks get new embedding rows.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """,
)(train_run)
