"""`hermes sft`: fine-tune a model on conversations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError
from hermes_cli.launch.launcher import placed
from hermes_cli.launch.signals import Signals
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.resolve import ResolvedOptions
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


@declare_command("sft")
@click.pass_context
def sft(context: click.Context, /, **_: Any) -> None:
    """Fine-tune a model on conversations (supervised fine-tuning).

    A record has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`,
    or is plain text. Only what the assistant says is trained on, including the end of each turn;
    every such token has the same weight.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
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
