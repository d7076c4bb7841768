"""`hermes dpo`: align a model with preference pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hermes.errors import HermesError
from hermes_cli.launch.launcher import placed
from hermes_cli.launch.signals import Signals
from hermes_cli.options.config_file import COMMAND_LINE
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.resolve import ResolvedOptions
from hermes_cli.training.finetuning import (
    base_of,
    beginning_of,
    counter,
    files_of,
    recipe_of,
    request_of,
)

LONGEST_DEFAULT = 512


def _check(options: ResolvedOptions) -> None:
    """Refuse what the loss has no use for. Raises HermesError."""
    loss = options["loss"]
    given = {name for name in ("gamma", "reference_cache") if options.sources[name] == COMMAND_LINE}
    if "gamma" in given and loss != "simpo":
        raise HermesError(f"gamma belongs to loss simpo, not to {loss}")
    if "reference_cache" in given and loss in ("orpo", "simpo"):
        raise HermesError(f"--reference-cache has no meaning with loss {loss}, which has none")


@declare_command("dpo")
@click.pass_context
def dpo(context: click.Context, /, **_: Any) -> None:
    """Align a model with preference pairs (DPO and its relatives).

    A record has `prompt`, `chosen` and `rejected`, or `chosen` and `rejected` alone: whole
    conversations that begin with the same messages. The reference model is the model before
    training; its log-probabilities are computed once and cached.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
    from hermes.data.preferences import read_pairs
    from hermes.finetuning.dpo import DPOData
    from hermes_cli.training.hub_upload import push_of
    from hermes_cli.training.run_training import carry_out

    options = ResolvedOptions(context, model_config=True)
    _check(options)
    start = beginning_of(options, chat=not options["no_template"])
    data = files_of(options)
    given = recipe_of(options, start.spec.max_seq_len, LONGEST_DEFAULT) | {
        "objective": "preference"
    }
    longest = given.get("seq_len")
    if isinstance(longest, int) and longest > start.spec.max_seq_len:
        raise HermesError(
            f"max_len is {longest}, more than the model's max_seq_len {start.spec.max_seq_len}; "
            "choose a shorter --max-len"
        )
    request = request_of(options, start, data, given)
    cache = options["reference_cache"]
    with Signals("stopping after this update; again to end at once") as signals:
        share = placed(context, options, request, signals)
        if share is None:
            return
        request, speaks = share, share.process_group.rank_info.rank == 0
        preferences = DPOData(
            read_pairs(data, file_format=options["format"]),
            start,
            request.backend,
            request.options,
            request.output,
            cache=Path(cache) if cache else None,
            use_template=not options["no_template"],
            drop=options["drop_overlong"],
            process_group=request.process_group,
            base=base_of(options, start),
            named=options.is_resumed and options.is_given("checkpoint"),
            stop=signals.asked,
            progress=counter("reference") if speaks else lambda done, total: None,
        )
        carry_out(
            context,
            replace(request, material=preferences.material),
            signals,
            from_stdin="-" in data,
            push=push_of(options),
        )
