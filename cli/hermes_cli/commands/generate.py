"""`hermes generate`: continue a prompt, showing the text as it comes, or the prompts of a file."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.formatting import format_count
from hermes_cli.display.count_bar import show_count
from hermes_cli.display.line_input import read_whole_input
from hermes_cli.display.text_stream import print_text, stream_text
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.model import Model


@declare_command("generate")
def generate(
    checkpoint: Path,
    config: Path | None,
    ignore_fields: tuple[str, ...],
    use_ema: bool,
    tokenizer: Path | None,
    eos: str | None,
    bos: bool | None,
    backend: str,
    device: str | None,
    precision: str,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate text from a prompt.

    The text is streamed to standard output, without the prompt. With --prompts, the texts of a file
    of prompts go to --output, or to standard output as JSON lines.
    """
    from hermes.api_generation import check_batch_invariance, choose_schema
    from hermes.errors import HermesError
    from hermes.inference.call_checks import check_generation
    from hermes.model_loading import load

    if options["num_samples"] < 1:
        raise HermesError(f"num_samples must be at least 1, got {options['num_samples']}")
    if options["logprobs"] is not None and not as_json and options["prompts"] is None:
        raise HermesError("--logprobs are shown with --json; give that, too")
    if options["output"] is not None and options["prompts"] is None:
        raise HermesError("--output is the file for the texts of --prompts; give those, too")
    check_batch_invariance(options)
    check_generation(options)
    if options["prompt"] == "-":
        options["prompt"] = read_whole_input()
    options["json_schema"] = choose_schema(options["json_schema"])
    model = load(
        checkpoint,
        backend,
        device,
        precision,
        config=config,
        ignore_fields=ignore_fields,
        use_ema=use_ema,
        tokenizer=tokenizer,
        eos=eos,
        bos=bos,
        force=force,
    )
    check = click.get_current_context().find_root().obj.signals.raise_if_come
    if options["num_beams"] != 1:
        _search(model, options, as_json)
    elif options["prompts"] is not None:
        _generate_from_file(model, {**options, "use_ema": use_ema}, check)
    else:
        _generate_from_prompt(model, options, check, as_json)


def _generate_from_prompt(
    model: "Model", options: dict[str, Any], check: Any, as_json: bool
) -> None:
    from hermes.api_generation import choose_all_sampling

    sampling = choose_all_sampling(model, options)
    for index in range(options["num_samples"]):
        check()
        complete = partial(
            model.complete,
            options["prompt"],
            max_tokens=options["max_tokens"],
            sampling=sampling,
            seed=options["seed"] + index,
            stop=options["stop"],
            stop_ids=options["stop_id"],
            logprobs=options["logprobs"],
            echo=options["echo"],
            context_overflow=options["context_overflow"],
            json_schema=options["json_schema"],
            prompt_cache=options["prompt_cache"],
        )
        if as_json:
            click.echo(json.dumps(complete().to_json()))
            continue
        if index:
            click.echo("---")
        if sys.stdout.isatty() and not options["echo"]:
            click.echo(click.style(options["prompt"], bold=True), nl=False)
        with stream_text(check) as show:
            complete(show=show)


def _search(model: "Model", options: dict[str, Any], as_json: bool) -> None:
    from hermes.api_generation import search

    for index, text in enumerate(search(model, options)):
        if as_json:
            click.echo(json.dumps(text.to_json()))
            continue
        if index:
            click.echo("---")
        print_text(f"{text.text}\n")


def _generate_from_file(model: "Model", options: dict[str, Any], check: Any) -> None:
    from hermes.api_generation import generate_from_file

    with show_count("texts", check) as report:
        texts = generate_from_file(model, options, report)
    if options["output"] is None:
        for text in texts:
            click.echo(json.dumps(text.to_json(), ensure_ascii=False))
    else:
        many = format_count(len(texts), "texts are", "text is")
        click.echo(f"{many} in {options['output']}", err=True)
