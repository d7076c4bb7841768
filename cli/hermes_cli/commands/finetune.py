"""`hermes finetune`: go on training a model that exists, on other text."""

from dataclasses import replace

import click

from hermes_cli.launch.launcher import placed
from hermes_cli.launch.signals import Signals
from hermes_cli.options.resolve import ResolvedOptions
from hermes_cli.options.training_options import command, model_options, option, training_options
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


finetune = command(
    "finetune",
    run_finetuning,
    short_help="Go on training a model that exists, on other text",
    help="""Go on training a model that exists, on other text.

    The model may be ours or Hugging Face's. Tokens that it has no rows for get some. Ctrl-C
    finishes the update, saves and ends; --resume goes on, on either backend.""",
    params=[
        *model_options(),
        option("--data", "-d", multiple=True, metavar="F",
               help="Text: .txt, .jsonl, .json or .csv.  [default: standard input]"),
        option("--text-field", default="text", help="The field that holds the text."),
        option("--format", metavar="txt|jsonl|json|csv", help="Instead of the file's ending."),
        option("--seq-len", type=int,
               help="Tokens per sequence.  [default: 256, or the model's max_seq_len]"),
        *training_options(lr=3e-4, batch_size=32, samples="Sequences"),
    ],
)  # fmt: skip
