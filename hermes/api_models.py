"""The public functions that judge and convert a trained model: evaluate, convert and merge."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hermes.arguments import convert_arguments
from hermes.data import TextFormat
from hermes.data.loading import DataOptions, load_tokens
from hermes.errors import HermesError
from hermes.evaluation.perplexity import evaluate_perplexity, make_windows
from hermes.interop.convert import Conversion
from hermes.interop.convert import convert as write_converted
from hermes.interop.open_model import open_model
from hermes.model import Model, load
from hermes.tokenizer import Tokenizer

__all__ = ["ConvertResult", "EvalResult", "convert", "evaluate", "merge"]

Watch = Callable[[str, float], None]


def _watch_nothing(stage: str, share: float) -> None:
    pass


@dataclass(frozen=True)
class EvalResult:
    """How well a model predicts a text. val_loss: nats per token."""

    val_loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int

    def __repr__(self) -> str:
        return (
            f"EvalResult(loss {self.val_loss:.4f} nats per token, perplexity "
            f"{self.perplexity:,.2f}, {self.bits_per_byte:.4f} bits per byte, {self.tokens:,} "
            "tokens)"
        )


def evaluate(
    checkpoint: str | Path,
    data: str | Path | Sequence[str | Path] = (),
    *,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    tokenizer: str | Path | Tokenizer | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    text_field: str = "text",
    format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    skip_bad_records: bool = False,
    max_bad_records: float = 0.01,
    cache_dir: str | Path | None = None,
    seq_len: int | None = None,
    batch_size: int = 32,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "float32",
    force: bool = False,
) -> EvalResult:
    """The loss, perplexity and bits per byte of a model on a text.

    checkpoint to bos, force: as in `load`. data to cache_dir: as in `train`. seq_len: tokens per
    row, None for the run's, else 256 or the model's max_seq_len.
    Raises HermesError of every kind.
    """
    a = convert_arguments(evaluate, locals())
    names = [data] if isinstance(data, str | Path) else list(data)
    if not names:
        raise HermesError("no data: give data=FILE, a folder or a list of files")
    model = load(
        checkpoint, backend, device, precision, config=config, tokenizer=tokenizer,
        ignore_fields=a["ignore_fields"], eos=eos, bos=a["bos"], force=a["force"],
        use_ema=a["use_ema"],
    )  # fmt: skip
    options = DataOptions(
        TextFormat(text_field, format, documents, no_header),
        a["max_bad_records"] if skip_bad_records else None,
        Path(cache_dir) if cache_dir else None,
        tell=lambda line: warnings.warn(line, stacklevel=3),
        force=a["force"],
    )
    with load_tokens(names, model.tokenizer, options) as stream:
        tokens = stream.read(0, len(stream))
        found = evaluate_perplexity(
            model.backend_model,
            make_windows(
                tokens,
                _find_seq_len(model) if a["seq_len"] is None else a["seq_len"],
                a["batch_size"],
            ),
            model.tokenizer.count_bytes(tokens, np.arange(len(tokens)) > 0),
        )
    assert found is not None, "nothing stops it"
    return EvalResult(found.loss, found.perplexity, found.bits_per_byte, found.tokens)


def _find_seq_len(model: Model) -> int:
    """The length that the model was trained with, where a run of hermes wrote it."""
    from hermes.checkpoint import open_checkpoint

    folder = model.path
    if folder is not None and (folder / "progress.json").is_file():
        return open_checkpoint(folder, hashes=False).progress.recipe.seq_len
    return min(256, model.spec.max_seq_len)


@dataclass(frozen=True, repr=False)
class ConvertResult:
    """A model that was written in another form, with the proof that it is the same.

    difference: of the logits, relative to their root mean square. conversion: all that is known.
    """

    path: Path
    architecture: str
    parameters: int
    dtype: str
    bytes: int
    difference: float
    notes: tuple[str, ...]
    conversion: Conversion

    def __repr__(self) -> str:
        return (
            f"ConvertResult({self.path}: {self.architecture}, {self.parameters:,} parameters, "
            f"{self.dtype}, logits differ by {self.difference:.2g})"
        )


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to: str,
    dtype: str | None = None,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    backend: str = "auto",
    force: bool = False,
    on_progress: Watch = _watch_nothing,
) -> ConvertResult:
    """Write the model at `src` as the new folder `dst`, and compare the logits of both.

    src: a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors with its
    `config`, a .pt that nanoGPT trained, or hf://OWNER/REPO. to: 'hermes' for a checkpoint, 'hf'
    for a folder under Hugging Face's own names, 'mlx-adapter' or 'peft-adapter' for the adapters of
    a run alone, as mlx-lm loads them, or PEFT on the model's class. dtype: 'float32', 'bfloat16' or
    'float16'; None as stored. ignore_fields: as in `load`. use_ema: write the average of the
    weights. backend: what computes the comparison. force: try what memory seems too small for.
    on_progress: called with the stage, 'writing' or 'comparing', and the share of it that is done.
    Raises HermesError of every kind.
    """
    a = convert_arguments(convert, locals())
    return _write(src, dst, None, a)


def merge(
    checkpoint: str | Path,
    output: str | Path,
    *,
    adapter: str | Path | None = None,
    to: str = "hermes",
    dtype: str | None = "float32",
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    force: bool = False,
    on_progress: Watch = _watch_nothing,
) -> ConvertResult:
    """Write a model with its low-rank adapters added in, W + alpha / rank B A, as a new folder.

    checkpoint: a run of adapters, or the model that `adapter` belongs to: a run of adapters, or a
    folder that PEFT or mlx-lm wrote. dtype: of what is written; the sum is computed in float32 at
    least. Otherwise as `convert`. Raises HermesError of every kind.
    """
    a = convert_arguments(merge, locals())
    where = Path(config) if config else None
    ignored = a["ignore_fields"]
    source = Path(checkpoint)
    if adapter is None and not open_model(source, config=where, ignore_fields=ignored).adapted:
        raise HermesError(f"{checkpoint} has no adapters to merge; give them with --adapter DIR")
    return _write(checkpoint, output, adapter, a | {"backend": "auto"})


def _write(
    source: str | Path, target: str | Path, adapter: str | Path | None, a: dict[str, object]
) -> ConvertResult:
    from hermes.numerics.params import count_parameters

    backend, config = str(a["backend"]), a["config"]
    done = write_converted(
        Path(source),
        Path(target),
        to=str(a["to"]),
        dtype=None if a["dtype"] is None else str(a["dtype"]),
        config=Path(str(config)) if config else None,
        ignore_fields=a["ignore_fields"],  # type: ignore[arg-type]  # converted by its annotation
        use_ema=bool(a.get("use_ema")),
        adapter=Path(adapter) if adapter else None,
        backend=None if backend == "auto" else backend,
        force=bool(a["force"]),
        on_progress=a["on_progress"],  # type: ignore[arg-type]  # converted by its annotation
    )
    return ConvertResult(
        done.target,
        done.architecture,
        count_parameters(done.source.spec),
        done.dtype,
        done.size,
        done.verification.difference,
        done.notes,
        done,
    )
