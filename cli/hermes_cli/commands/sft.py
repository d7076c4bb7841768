"""`hermes sft`: learn what the assistant says in conversations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError
from hermes_cli.launch.launcher import placed
from hermes_cli.launch.signals import Signals
from hermes_cli.options.resolve import ResolvedOptions
from hermes_cli.options.training_options import (
    command,
    data_options,
    model_options,
    option,
    training_options,
)
from hermes_cli.training.finetuning import beginning_of, files_of, recipe_of, request_of

if TYPE_CHECKING:
    from hermes.chat_templates.encoder import Example
    from hermes.tokenizer import Tokenizer

LONGEST_DEFAULT = 1024


def shown(tokenizer: "Tokenizer", example: "Example") -> str:
    """An example as text: what is learnt in green, in brackets where there are no colours."""
    text, before = "", False
    runs: list[tuple[bool, list[int]]] = []
    for token, learnt in zip(example.ids.tolist(), example.loss_mask.tolist(), strict=True):
        if not runs or learnt is not before:
            runs.append((learnt, []))
        runs[-1][1].append(token)
        before = learnt
    for learnt, ids in runs:
        words = tokenizer.decode(ids, skip_special=False)
        text += click.style(f"[{words}]", fg="green", bold=True) if learnt else words
    return f"{example.where}, {len(example)} tokens:\n{text}\n"


def _sft(context: click.Context) -> None:
    from hermes.data.conversations import read_conversations
    from hermes.finetuning.sft import SFTData
    from hermes_cli.training.hub_upload import push_of
    from hermes_cli.training.run_training import carry_out

    options = ResolvedOptions(context, model_config=True)
    if options["show_samples"] < 0:
        raise HermesError(f"show_samples must be at least 0, got {options['show_samples']}")
    start = beginning_of(options, chat=True)
    data = files_of(options)
    request = request_of(
        options, start, data, recipe_of(options, start.spec.max_seq_len, LONGEST_DEFAULT)
    )

    with Signals("stopping after this update; again to end at once") as signals:
        share = placed(context, options, request, signals)
        if share is None:
            return
        samples = options["show_samples"] if share.process_group.rank_info.rank == 0 else 0

        def show(examples: Sequence["Example"]) -> None:
            for example in examples[:samples]:
                click.echo(shown(start.tokenizer, example), err=True)

        chats = SFTData(
            read_conversations(data, file_format=options["format"]),
            start.encoder,
            whole=options["train_on_prompt"],
            pack=options["pack"],
            overlong=options["overlong"],
            show=show,
        )
        made = replace(share, material=chats.material)
        carry_out(context, made, signals, from_stdin="-" in data, push=push_of(options))


sft = command(
    "sft",
    _sft,
    short_help="Learn what the assistant says in conversations",
    help="""Learn what the assistant says in conversations.

    A record has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`,
    or is plain text. Only the assistant's tokens and the ends of its turns are learnt, each with
    equal weight. Ctrl-C finishes the update, saves and ends; --resume goes on.""",
    params=[
        *model_options(),
        *data_options("Conversations: .jsonl, .json or .csv.  [default: standard input]"),
        option("--seq-len", type=int,
               help="Tokens per row.  [default: 1024, or the model's max_seq_len]"),
        option("--train-on-prompt", is_flag=True, help="Learn every token."),
        option("--pack/--no-pack", default=True,
               help="Several conversations a row, none of which sees another."),
        option("--overlong", default="error", metavar="error|drop|truncate",
               help="What is done with a conversation longer than a row."),
        option("--show-samples", type=int, default=0, metavar="N",
               help="Show the first N, what is learnt in green brackets."),
        *training_options(lr=3e-4, batch_size=32, samples="Rows"),
    ],
)  # fmt: skip
