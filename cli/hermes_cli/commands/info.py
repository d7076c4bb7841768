"""`hermes info`: show an architecture's shape, parameters, FLOPs and memory."""

from pathlib import Path
from typing import Any

from hermes import mal as language
from hermes.errors import HermesError
from hermes.spec import ModelSpec
from hermes_cli.display.printing import print_json, print_lines
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.model_paths import locate_model

__all__ = [
    "info",
]


def _read_foreign(model: str, ignore_fields: tuple[str, ...]) -> ModelSpec | None:
    """The model of a Hugging Face folder or config.json; None if the path is neither."""
    path = Path(model)
    if path.suffix == ".json" and path.is_file() and path.name != "config.json":
        _require_config(path)
    if path.is_dir() and not (path / "model.mal").is_file():
        path = path / "config.json"
    if path.suffix != ".json" or not path.is_file():
        return None
    from hermes.interop.companions import name_file, parse_object
    from hermes.interop.huggingface.config_reader import read_any_config
    from hermes.storage.reading import read_small

    values = parse_object(read_small(path), str(path))
    with name_file(path):
        return read_any_config(values, ignore_fields).spec


def _require_config(path: Path) -> None:
    """Refuse a JSON file that is no model's configuration, by its own name. Raises HermesError."""
    from hermes.interop.companions import parse_object
    from hermes.storage.reading import read_small

    if "model_type" not in parse_object(read_small(path), str(path)):
        raise HermesError(
            f"{path} has no 'model_type', so it is no config.json of a model; name the model's "
            "folder, its config.json or a .mal file"
        )


def _read_progress(folder: Path) -> dict[str, Any] | None:
    """The content of a checkpoint's progress.json, None if it has none."""
    path = folder / "progress.json"
    if not path.is_file():
        return None
    from dataclasses import asdict

    from hermes.checkpoint.progress import read_progress
    from hermes.storage.reading import read_small

    return asdict(read_progress(read_small(path), str(path)))


def _describe_tokenizer(folder: Path, rows: int) -> tuple[dict[str, str], str]:
    """The tokenizer of a model's folder in words, {} for none, and why it is of no use, or ""."""
    from hermes.errors import CheckpointError, DataError
    from hermes.interop.companions import check_rows
    from hermes.tokenizer import Tokenizer
    from hermes.tokenizer.files import has_tokenizer, read_folder
    from hermes.tokenizer.summary import describe_facts

    files, where = read_folder(folder)
    if not has_tokenizer(files):
        return {}, "no tokenizer"
    try:
        tokenizer = Tokenizer.from_files(files, where)
    except DataError as error:
        return {"cannot be read": str(error)}, f"the tokenizer cannot be read: {error}"
    facts = describe_facts(tokenizer)
    try:
        check_rows(tokenizer, rows)
    except CheckpointError as error:
        return facts, str(error)
    return facts, ""


def _format_progress(progress: dict[str, Any]) -> list[str]:
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
def info(
    found: str | None, name: str | None, ignore_fields: tuple[str, ...], as_json: bool
) -> None:
    """Show an architecture's shape, parameters, FLOPs and memory.

    Also says which other tools read the model and compute the same numbers.
    """
    from hermes.formatting import format_columns
    from hermes.interop.huggingface.reader_support import judge_all_readers
    from hermes.model_info.cost import compute_cost
    from hermes.model_info.summary import format_cost, format_shape, format_title

    if (found is None) == (name is None):
        what = "one model, not two" if name else "a model"
        raise HermesError(f"give {what}: a bundled name, a .mal file, a checkpoint or a folder")
    source = locate_model(found or name or "")
    foreign = _read_foreign(source, ignore_fields)
    spec = foreign or language.load(source)
    progress = _read_progress(Path(source)) if Path(source).is_dir() else None
    is_folder = Path(source).is_dir()
    tokenizer, text = _describe_tokenizer(Path(source), spec.vocab_size) if is_folder else ({}, "")
    readers = judge_all_readers(spec, converted=foreign is not None, text=text)
    cost = compute_cost(spec)
    if as_json:
        facts = _describe(spec) | vars(cost) | {"readers": readers}
        facts |= {"tokenizer": tokenizer} if tokenizer else {}
        print_json(facts | ({"progress": progress} if progress else {}))
        return
    print_lines([format_title(spec), "", *format_shape(spec), "", *format_cost(spec, cost)])
    print_lines(
        ["", "readers", *format_columns([(f"  {name}", word) for name, word in readers.items()])]
    )
    if tokenizer:
        rows = [(f"  {name}", word) for name, word in tokenizer.items()]
        print_lines(["", "tokenizer", *format_columns(rows)])
    if progress:
        print_lines(["", *_format_progress(progress)])


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """A model's shape as plain data; the values of layers are in the notation of MAL."""
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
