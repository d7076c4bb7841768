"""The public functions that write a trained model in another form: convert and merge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.errors import HermesError
from hermes.interop.convert import Conversion
from hermes.interop.convert import convert as write_converted
from hermes.interop.model_folder import require_new_folder
from hermes.interop.open_model import open_model
from hermes.stage_display import show_progress

__all__ = ["ConvertResult", "convert", "merge"]

Watch = Callable[[str, float], None]


def _watch_nothing(stage: str, share: float) -> None:
    pass


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


@name_own_arguments
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


@name_own_arguments
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
    require_new_folder(Path(output))
    if adapter is None and not open_model(source, config=where, ignore_fields=ignored).adapted:
        raise HermesError(f"{checkpoint} has no adapters to merge; give them with --adapter DIR")
    return _write(checkpoint, output, adapter, a | {"backend": "auto"})


def _write(
    source: str | Path, target: str | Path, adapter: str | Path | None, a: dict[str, object]
) -> ConvertResult:
    from hermes.numerics.params import count_parameters

    backend, config = str(a["backend"]), a["config"]
    with show_progress(None):
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
