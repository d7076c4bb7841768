"""`hermes info` and `hermes mal`: what an architecture is, what it costs, how two differ."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from hermes import mal as language
from hermes.spec import ModelSpec
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.model_paths import fetch_model

__all__ = [
    "info",
]


def _print(lines: Iterable[str]) -> None:
    """Lines on stdout; on a terminal, those at the margin are headings."""
    for line in lines:
        click.echo(line if line.startswith(" ") else click.style(line, bold=True))


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _locate(model: str) -> str:
    """The model as `mal.load` reads it: of a run's folder, its newest checkpoint; of the Hub's,
    the folder here."""
    folder = fetch_model(model)
    model = str(folder) if model.startswith("hf:/") else model
    if folder.is_dir() and not (folder / "model.mal").is_file():
        from hermes.checkpoint import list_steps

        found = list_steps(folder)
        return str(found[0][1]) if found else model
    return model


def _foreign(model: str) -> ModelSpec | None:
    """The model of a Hugging Face folder or config.json; None where that is not one."""
    path = Path(model)
    if path.is_dir() and not (path / "model.mal").is_file():
        path = path / "config.json"
    if path.suffix != ".json" or not path.is_file():
        return None
    from hermes.interop.companions import parse_object
    from hermes.interop.huggingface.config_reader import read_config
    from hermes.storage.reading import read_small

    return read_config(parse_object(read_small(path), str(path)))


def _progress(folder: Path) -> dict[str, Any] | None:
    """What progress.json says of a checkpoint, or None."""
    path = folder / "progress.json"
    if not path.is_file():
        return None
    from dataclasses import asdict

    from hermes.checkpoint.progress import read_progress
    from hermes.storage.reading import read_small

    return asdict(read_progress(read_small(path), str(path)))


def _progress_lines(progress: dict[str, Any]) -> list[str]:
    from hermes.formatting import format_columns

    end = f" of {progress['total_steps']:,}" if progress["total_steps"] else ""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in progress["metrics"].items())
    where = " ".join(filter(None, (progress["backend"], progress["device"])))
    rows = [
        ("  steps", f"{progress['step']:,}{end}"),
        ("  tokens", f"{progress['tokens']:,}"),
        ("  epoch", f"{progress['epoch']}, next sample {progress['sample']:,}"),
        *([("  metrics", metrics)] if metrics else []),
        *([("  written by", f"{where}, {progress['precision']}")] if where else []),
    ]
    return ["progress", *format_columns(rows)]


@declare_command("info")
def info(name: str, as_json: bool) -> None:
    """Show an architecture's shape, parameters, FLOPs and memory.

    Also says which other tools read the model and compute the same numbers.
    """
    from hermes.formatting import format_columns
    from hermes.interop.huggingface.reader_support import judge_all_readers
    from hermes.model_info.cost import compute_cost
    from hermes.model_info.summary import format_cost, format_shape, format_title

    source = _locate(name)
    foreign = _foreign(source)
    spec = foreign or language.load(source)
    readers = judge_all_readers(spec, converted=foreign is not None)
    progress = _progress(Path(source)) if Path(source).is_dir() else None
    cost = compute_cost(spec)
    if as_json:
        facts = _facts(spec) | vars(cost) | {"readers": readers}
        _print_json(facts | ({"progress": progress} if progress else {}))
        return
    _print([format_title(spec), "", *format_shape(spec), "", *format_cost(spec, cost)])
    _print(
        ["", "readers", *format_columns([(f"  {name}", word) for name, word in readers.items()])]
    )
    if progress:
        _print(["", *_progress_lines(progress)])


def _facts(spec: ModelSpec) -> dict[str, Any]:
    """A model's shape as plain data; values of layers are as MAL says them."""
    from hermes.model_info.shape import describe_layer, group_layers

    return {
        "name": spec.name,
        "description": spec.description,
        "vocab_size": spec.vocab_size,
        "max_seq_len": spec.max_seq_len,
        "hidden_size": spec.hidden_size,
        "num_layers": spec.num_layers,
        "tie_weights": spec.embeddings.tie_weights,
        "layers": [
            {"indices": indices, **describe_layer(block)} for indices, block in group_layers(spec)
        ],
        "mal": language.dumps(spec),
    }
