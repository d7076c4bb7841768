"""`hermes finetune`: continue training an existing model on plain text."""

from dataclasses import replace
from typing import Any

import click

from hermes_cli.launch.launcher import placed
from hermes_cli.launch.signals import Signals
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.resolve import ResolvedOptions
from hermes_cli.training.finetuning import beginning_of, files_of, recipe_of, request_of

LONGEST_DEFAULT = 256


def run_finetuning(context: click.Context) -> None:
    """Do what the command line asks."""
    from hermes_cli.training.hub_upload import push_of
    from hermes_cli.training.run_training import carry_out

    options = ResolvedOptions(context, model_config=True)
    start = beginning_of(options, chat=False)
    data = files_of(options)
    given = recipe_of(options, start.spec.max_seq_len, LONGEST_DEFAULT)
    request = replace(request_of(options, start, data, given), text_field=options["text_field"])
    with Signals("stopping after this update; again to end at once") as signals:
        if share := placed(context, options, request, signals):
            to = push_of(options)
            carry_out(context, share, signals, from_stdin="-" in data, push=to)


@declare_command("finetune")
@click.pass_context
def finetune(context: click.Context, /, **_: Any) -> None:
    """Continue training an existing model on plain text.

    The model may be one of hermes or of Hugging Face, in full or with LoRA adapters. Tokens that
    the tokenizer has and the model lacks get new embedding rows.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
    run_finetuning(context)
